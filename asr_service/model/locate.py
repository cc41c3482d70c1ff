"""Finds the model that a setting names: the bundled one, a file, an unpacked file's folder, or one of the hub.

Cheap to import. Neither torch nor NeMo is needed, and the hub's library for a hub's name only.
"""

from __future__ import annotations

import errno
from functools import cache
from pathlib import Path

from asr_service.core.errors import ModelError
from asr_service.model.hub.names import FORMS, parse_hub_name
from asr_service.model.nemo_file.names import CONFIG
from asr_service.model.refusals import unreadable

DEMO_MODEL = Path(__file__).parents[1] / "assets" / "demo.nemo"

# Names with a commit, by the names that are set: what a hub's name has meant once, it means for as long as this runs.
_pins: dict[str, str] = {}


def local_path(name: str) -> Path | None:
    """Returns the path of the file or folder that a model's name means, which need not exist; None for a hub's.

    Raises:
        ModelError: it is in the home folder of somebody who has none, or nobody may look for it.
    """
    try:
        path = DEMO_MODEL if name == "demo" else Path(name).expanduser()
    except RuntimeError as error:
        raise ModelError(
            f"ASR_MODEL is {name!r}, and there is no home folder for that: write the path in full",
            field="ASR_MODEL",
        ) from error
    try:
        if path.suffix == ".nemo" or path.is_file() or (path / CONFIG).is_file():
            return path
    except OSError as error:
        # No file has so long a name, nor has a hub's model.
        if error.errno != errno.ENAMETOOLONG:
            raise unreadable(path, error) from error
    # No hub has such names.
    return path if name.startswith(("/", ".", "~")) else None


def pinned_name(name: str) -> str:
    """Returns the name by which another process finds the same model of a hub: the one with the commit that was found.

    Args:
        name: as for `find_model`, which has found it.

    Returns:
        `owner/name@commit`; "" if this process has found no hub's model under that name.
    """
    return _pins.get(name, "")


def pin_model(name: str, pinned: str) -> None:
    """Has a hub's model mean from now on what it has meant to another process, whatever its hub has by then.

    Args:
        name: as for `find_model`.
        pinned: what `pinned_name` has returned there.
    """
    _pins[name] = pinned


def find_model(name: str) -> Path:
    """Finds the `.nemo` file, or the folder of an unpacked one, that a model's name means.

    A hub's model is fetched if it is not in the cache; a process asks its hub once, and not at all for one that is
    pinned and there.

    Raises:
        ModelError: the name is of no form that means a model, or means one that cannot be had as things are set, or not
            by this user.
        ModelUnavailable: the model's hub is away, or the disk is full.
    """
    path = local_path(name)
    if path is None:
        return _fetch(name)
    try:
        if path.is_dir() and not (path / CONFIG).is_file():
            raise ModelError(
                f"ASR_MODEL names a folder without {CONFIG}, which every unpacked .nemo file has: {path}",
                field="ASR_MODEL",
            )
        if not path.exists():
            raise ModelError(f"ASR_MODEL names a file that does not exist: {path}", field="ASR_MODEL")
    except OSError as error:
        raise unreadable(path, error) from error
    return path


def mend_model(name: str, path: Path) -> Path | None:
    """Fetches a hub's model again after its file could not be read, if that is damaged in the cache.

    Args:
        name: as for `find_model`.
        path: from `find_model`.

    Returns:
        The path of a file that is whole; None if `path` is as whole as it ever was, or no hub's.

    Raises:
        ModelError: the file is damaged and HF_HUB_OFFLINE keeps it from being fetched; or as for `find_model`.
        ModelUnavailable: as for `find_model`.
    """
    if local_path(name) is not None:
        return None
    from asr_service.model.hub.fetch import fetch_again_if_damaged

    _fetch.cache_clear()
    return fetch_again_if_damaged(_pins.get(name, name), path)


@cache
def _fetch(name: str) -> Path:
    # A name of no form is told even where the library is missing.
    repo = parse_hub_name(name).repo
    try:
        from asr_service.model.hub.fetch import fetch
    except ModuleNotFoundError as error:
        raise ModelError(
            f"ASR_MODEL {name} has to be fetched from a hub, which needs the package {error.name}: "
            f"pip install 'asr-service[model]', or set ASR_MODEL to something else: {FORMS}",
            field="ASR_MODEL",
        ) from error
    found = fetch(_pins.get(name, name))
    _pins[name] = f"{repo}@{found.commit}"
    return found.path

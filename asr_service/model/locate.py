"""Finds the model that a setting names: the bundled one, a file, an unpacked file's folder, or one of the hub.

Cheap to import. Neither torch nor NeMo is needed, and the hub's library for a hub's name only.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from asr_service.core.errors import ModelError
from asr_service.model.hub.names import FORMS, parse_hub_name

DEMO_MODEL = Path(__file__).parents[1] / "assets" / "demo.nemo"
CONFIG_FILE = "model_config.yaml"
"""What a `.nemo` file's unpacked folder has."""


def local_path(name: str) -> Path | None:
    """Returns the path of the file or folder that a model's name means, which need not exist; None for a hub's."""
    path = DEMO_MODEL if name == "demo" else Path(name).expanduser()
    if path.suffix == ".nemo" or path.is_file() or (path / CONFIG_FILE).is_file():
        return path
    # No hub has such names.
    return path if name.startswith(("/", ".", "~")) else None


def find_model(name: str) -> Path:
    """Finds the `.nemo` file, or the folder of an unpacked one, that a model's name means.

    A hub's model is fetched if it is not in the cache; a process asks its hub once.

    Raises:
        ModelError: the name is of no form that means a model, or means one that cannot be had as things are set.
        ModelUnavailable: the model's hub is away, or the disk is full.
    """
    path = local_path(name)
    if path is None:
        return _fetch(name)
    if path.is_dir() and not (path / CONFIG_FILE).is_file():
        raise ModelError(
            f"ASR_MODEL names a folder without {CONFIG_FILE}, which every unpacked .nemo file has: {path}",
            field="ASR_MODEL",
        )
    if not path.exists():
        raise ModelError(f"ASR_MODEL names a file that does not exist: {path}", field="ASR_MODEL")
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
    return fetch_again_if_damaged(name, path)


@cache
def _fetch(name: str) -> Path:
    # A name of no form is told even where the library is missing.
    parse_hub_name(name)
    try:
        from asr_service.model.hub.fetch import fetch
    except ModuleNotFoundError as error:
        raise ModelError(
            f"ASR_MODEL {name} has to be fetched from a hub, which needs the package {error.name}: "
            f"pip install 'asr-service[model]', or set ASR_MODEL to something else: {FORMS}",
            field="ASR_MODEL",
        ) from error
    return fetch(name)

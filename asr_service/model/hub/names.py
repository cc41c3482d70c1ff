"""The names of a hub's models, and which of a model's files is the model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from asr_service.core.errors import ModelError

FORMS = (
    "owner/name or owner/name@revision for a model of the hub, the path of a .nemo file or of the folder of an "
    "unpacked one, or `demo`"
)
"""How ASR_MODEL may be written."""

_WORD = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?P<repo>{_WORD}/{_WORD})(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_LISTED = 10


@dataclass(frozen=True, slots=True)
class HubName:
    """A hub's model, as ASR_MODEL names it.

    Attributes:
        repo: the repository, `owner/name`.
        revision: branch, tag or commit after the `@`, None without one.
    """

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def parse_hub_name(name: str) -> HubName:
    """Reads `owner/name` or `owner/name@revision`.

    Raises:
        ModelError: it is neither.
    """
    match = _NAME.fullmatch(name)
    # The hub allows neither in a repository's name, and its library makes paths of both parts.
    ill = match is None or "--" in match["repo"] or ".." in name or match["repo"].endswith(".git")
    if match is None or ill or (match["revision"] or "").startswith("/"):
        raise ModelError(f"ASR_MODEL is {name!r}, which names no model: write {FORMS}", field="ASR_MODEL")
    return HubName(match["repo"], match["revision"])


def choose_file(name: HubName, files: Iterable[str]) -> str:
    """Returns the path of a repository's `.nemo` file: the one named like the repository, else the only one.

    Raises:
        ModelError: there is none, or nothing tells which of several is meant; the message lists what there is.
    """
    files = sorted(files)
    models = [file for file in files if file.endswith(".nemo")]
    alike = f"{name.repo.rpartition('/')[2]}.nemo"
    if alike in models:
        return alike
    if len(models) == 1:
        return models[0]
    if models:
        reason = f"has {len(models)} .nemo files and none that is called {alike}: {_listed(models)}"
        advice = "fetch the one that is meant, and set ASR_MODEL to its path"
    else:
        reason = f"has no .nemo file; it has {_listed(files)}"
        advice = "name a model of NeMo's"
    raise ModelError(f"ASR_MODEL: {name} {reason}; {advice}", field="ASR_MODEL")


def _listed(files: list[str]) -> str:
    more = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    return (", ".join(files[:_LISTED]) or "no files at all") + more

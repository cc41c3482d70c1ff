"""Fetches a hub's model in a process of its own: the hub's library reads its variables when it is imported."""

from __future__ import annotations

import json
import random
import re
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forks import Fork, Forks
from tests.support.hub import SIGNATURE, StandInHub, environment
from tests.support.process import clean_environment
from tests.support.rights import give_up_rights

CONTENT = random.Random(1).randbytes(1_500_000)
"""Of the model's file, in the tests."""
COMMIT = "a" * 40
"""Of the revision that has it."""
# What the hub's library and our own code import, but for the library itself.
_FORKS = Forks("asr_service.model.locate", "filelock", "httpx2", "tqdm.auto", "yaml")
_LINE = re.compile(r"\S+ (INFO|WARNING) +asr_service\.model\.[\w.]+: \S.*")


@dataclass(frozen=True)
class Fetched:
    """What came of it.

    Attributes:
        path: of the model, None if there was an error.
        error: the error's class, "" if there was none.
        message: the error's sentence.
        field: the setting that the error names.
        log: everything that was printed beside that.
    """

    path: Path | None
    error: str
    message: str
    field: str
    log: list[str]

    @property
    def warnings(self) -> list[str]:
        """The warnings of the log."""
        return [line for line in self.log if " WARNING " in line]


def start(hub: StandInHub | str, home: Path, *arguments: str, **variables: str) -> Fork:
    """Starts `python -m tests.support.fetching ARGUMENTS` with the hub's variables."""
    env = clean_environment(**environment(hub, home, **variables))
    return _FORKS.module("tests.support.fetching", *arguments, env=env)


def outcome(process: Fork) -> Fetched:
    """Waits for a process of `start`."""
    told, log = process.communicate()
    assert process.returncode == 0, log
    assert SIGNATURE not in told + log
    values = json.loads(told)
    path = Path(values.pop("path")) if values["path"] else values.pop("path")
    return Fetched(path=path, log=log.splitlines(), **values)


def fetched(hub: StandInHub | str, home: Path, *arguments: str, **variables: str) -> Fetched:
    """What comes of fetching: `NAME`, and what else `main` takes."""
    return outcome(start(hub, home, *arguments, **variables))


def has(done: Fetched, content: bytes = CONTENT) -> bool:
    """Whether a model was found whose file is this; what is printed is lines of the log alone, no bars."""
    assert done.error == "", done.message
    assert [line for line in done.log if not _LINE.fullmatch(line)] == [], done.log
    assert done.path is not None
    return done.path.read_bytes() == content


def refused(done: Fetched, kind: str, *parts: str, field: str = "ASR_MODEL") -> bool:
    """Whether there was an error of this kind, in one sentence with all these parts in this order."""
    assert done.path is None and "\n" not in done.message
    at = 0
    for part in parts:
        at = done.message.find(part, at)
        assert at >= 0, (part, done.message)
    return (done.error, done.field) == (kind, field)


def blobs(home: Path) -> list[Path]:
    """The files of `org/model` in a cache."""
    return sorted((home / "hub/models--org--model/blobs").iterdir())


def main(argv: Sequence[str]) -> None:
    """Prints as JSON what `find_model` says of a name. Waits are short, and what is left of `argv` does this:

    --mend: what `mend_model` says of it after that
    --read: which file `read_model` has read at last
    --most BYTES: no file may become larger
    --no-rights: root, too, may only write where the mode of a file allows it
    """
    from asr_service.core.errors import ModelError, ModelUnavailable
    from asr_service.model.hub import download, file_lock, revision
    from asr_service.model.locate import find_model, mend_model
    from asr_service.observability import log

    name, *options = argv
    log.set_up("info", "text")
    download.RETRY_WAITS_S = (0.0, 0.0)
    download.TELL_S = file_lock.TELL_S = revision.ASK_S = 0.5
    revision.FIRST_WAITS_S = (0.0,)
    if "--most" in options:
        most = int(options[options.index("--most") + 1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    if "--no-rights" in options:
        give_up_rights()
    told: dict[str, Any] = {"path": None, "error": "", "message": "", "field": ""}
    try:
        path: Path | None = find_model(name)
        if "--mend" in options:
            assert path is not None
            path = mend_model(name, path)
        assert "torch" not in sys.modules
        if "--read" in options:
            path = _read(name)
        told["path"] = path and str(path)
    except (ModelError, ModelUnavailable) as error:
        told |= {"error": type(error).__name__, "message": error.message, "field": error.field}
    print(json.dumps(told))


def _read(name: str) -> Path:
    import torch

    from asr_service.model.reading import read_model

    return read_model(name, torch.device("cpu")).path


if __name__ == "__main__":
    main(sys.argv[1:])

"""One model in the cache of the hub's library: what is held, and whether it is what the hub has stated.

The layout is the library's: `refs/<revision>` names a commit, `snapshots/<commit>/<file>` is a link to `blobs/<etag>`.
The etag of a large file is its SHA-256, that of a small one its number in git, so that a file is checked without the
hub. To do so at every start would take seconds for a large model: what was checked once is noted, with the file's size
and time of change, in `.checked/<etag>`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from asr_service.core.errors import ModelError
from asr_service.model.hub.names import HubName, choose_file
from asr_service.model.hub.progress import amount

log = logging.getLogger(__name__)

SHARED = "ASR_SHARED_MODELS"
"""Variable that names a second cache, which is only read: models that are part of an image, say."""
COMMIT = re.compile(r"[0-9a-f]{40}")
TELL_S = 10.0
"""How often the log tells how far the reading of a whole file is."""
_BLOCK = 1 << 20
_S = 1_000_000_000


def shared_root() -> Path | None:
    """Returns the second cache; None if there is none."""
    folder = os.environ.get(SHARED)
    return Path(folder) if folder else None


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A model's file in the cache.

    Attributes:
        path: where it is read.
        commit: the revision that it is of.
        blob: the file itself, named by its etag; the path again where the cache has no links.
    """

    path: Path
    commit: str
    blob: Path


class RepoCache:
    """The part of the cache that holds one repository.

    Attributes:
        folder: of the repository.
        locks: folder of the library's locks on its files.
    """

    def __init__(self, name: HubName, root: Path | None = None) -> None:
        """Looks at a model in a cache.

        Args:
            name: of the model.
            root: of the cache; by default the library's.
        """
        root = root or Path(constants.HF_HUB_CACHE)
        own = f"models--{name.repo.replace('/', '--')}"
        self._name = name
        self.folder = root / own
        self.locks = root / ".locks" / own

    def blob(self, etag: str) -> Path:
        """Returns where the library keeps the file with an etag."""
        return self.folder / "blobs" / etag

    def find(self) -> CachedFile | None:
        """Finds the model's file of the revision that is wanted, `main` without one; None if it is not there.

        Raises:
            OSError: the cache cannot be read.
        """
        revision = self._name.revision or constants.DEFAULT_REVISION
        commit = revision
        if not COMMIT.fullmatch(revision):
            try:
                commit = (self.folder / "refs" / revision).read_text().strip()
            except (FileNotFoundError, IsADirectoryError):
                return None
            except NotADirectoryError:
                # `main/x`, where `main` is a revision itself; else something above is no folder.
                if not (self.folder / "refs").is_dir():
                    raise
                return None
        snapshot = self.folder / "snapshots" / commit
        # A link whose file is gone counts as nothing.
        files = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.nemo") if path.is_file()]
        try:
            path = snapshot / choose_file(self._name, files)
        except ModelError:
            return None
        blob = Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else path
        return CachedFile(path, commit, blob)

    def note_revision(self, commit: str) -> None:
        """Notes which commit the wanted revision is, as the library does."""
        revision = self._name.revision or constants.DEFAULT_REVISION
        if revision == commit:
            return
        ref = self.folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        fresh = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        fresh.write_text(commit)
        fresh.replace(ref)

    def is_whole(self, blob: Path) -> bool:
        """Returns whether a file is what its etag says; read in full only if it has changed since that was noted."""
        now = blob.stat()
        try:
            size, changed = (int(word) for word in self._note(blob).read_text().split())
        except (OSError, ValueError):
            size = changed = -1
        # Layers of container images keep whole seconds only.
        if now.st_size == size and now.st_mtime_ns in (changed, changed // _S * _S):
            return True
        if not matches_etag(blob, blob.name):
            return False
        self.note_whole(blob)
        return True

    def note_whole(self, blob: Path) -> None:
        """Notes that a file is what its etag says."""
        try:
            self._note(blob).parent.mkdir(exist_ok=True)
            self._note(blob).write_text(f"{blob.stat().st_size} {blob.stat().st_mtime_ns}")
        except OSError:
            # A cache that may only be read: it is checked at the next start again.
            pass

    def forget_whole(self, blob: Path) -> None:
        """Removes the note that a file is what its etag says, so that it is read in full.

        Raises:
            OSError: the cache cannot be written to.
        """
        self._note(blob).unlink(missing_ok=True)

    def remove(self, held: CachedFile) -> None:
        """Removes a model's file and everything that leads to it."""
        # Where repositories share their files, the blob is a link as well, and what is wrong lies behind it.
        for path in (held.path, held.blob.resolve(), held.blob):
            path.unlink(missing_ok=True)
        self.forget_whole(held.blob)

    def _note(self, blob: Path) -> Path:
        return self.folder / ".checked" / blob.name


def find_held(name: HubName) -> CachedFile | None:
    """Finds a model's file in the cache, else in the second one, as `RepoCache.find` does; it may be damaged.

    Raises:
        OSError: a cache cannot be read.
    """
    held = RepoCache(name).find()
    if held is None and (root := shared_root()) is not None:
        held = RepoCache(name, root).find()
    return held


def matches_etag(file: Path, etag: str) -> bool:
    """Returns whether a file has the hash that is its etag; where that is no hash, whether the file holds anything."""
    size = file.stat().st_size
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        digest = hashlib.sha256()
    elif COMMIT.fullmatch(etag):
        # How git numbers a file's content.
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    else:
        return size > 0
    done, told_at = 0, time.monotonic()
    with file.open("rb") as source:
        while block := source.read(_BLOCK):
            digest.update(block)
            done += len(block)
            # A folder over a network takes a while.
            if time.monotonic() - told_at >= TELL_S:
                told_at = time.monotonic()
                log.info("checking %s: %s of %s", file, amount(done), amount(size))
    return digest.hexdigest() == etag

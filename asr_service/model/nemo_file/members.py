"""Opens the members of a model file: of a tar archive, gzipped or not, or of the folder that one was unpacked to.

Nothing is unpacked but the weights of a gzipped one, into a file without a name, which is gone with the process. What
an archive says of its own size is not believed: headers, members and all of them together have bounds.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from asr_service.core.errors import DamagedModel, first_line
from asr_service.model.nemo_file.names import CONFIG, WEIGHTS
from asr_service.model.refusals import damaged, not_unpacked, unreadable, wrong

SMALL_BYTES = 64 * 2**20
"""Most bytes of a member that is not the weights: the largest known tokenizer has half a megabyte."""
CONFIG_BYTES = 2**20
"""Most bytes of the configuration: the largest known one has 0.2 MB. YAML takes some 300 times its size in memory."""
WEIGHT_BYTES = 64 * 2**30
"""Most bytes of the weights."""
MOST_RATIO = 50
"""Largest size of a gzipped file's content over its own: weights hardly shrink at all."""
HEADER_BYTES = 4096
"""Most bytes of a member's header, a long name's included. Python takes a time for it that grows with their square."""
MOST_MEMBERS = 200
"""Most members: a model has about ten, and some more for each language with a tokenizer of its own."""
# Of a gzipped archive: its reader is so far ahead of what it tells.
_READ_AHEAD = 4096
_BLOCK = 2**20
# Of a member's name, in messages.
_SHOWN_CHARS = 200


class Members(Protocol):
    """The members of an archive, or the files of a folder."""

    def read(self, name: str) -> bytes:
        """Returns a small member's bytes. Raises ModelError if it is missing, too large, or cannot be read."""
        ...

    def open_weights(self) -> IO[bytes]:
        """Opens the weights, so that they can be read from any place. Raises ModelError as `read` does."""
        ...


@contextmanager
def open_members(path: Path) -> Iterator[Members]:
    """Opens a model file or the folder that one was unpacked to.

    Raises:
        ModelError: it is neither, is damaged, cannot be read, or has members that lie outside it.
        ModelUnavailable: it is gzipped, and the disk has no room to unpack it.
    """
    with ExitStack() as held:
        yield _open(path, held)


def _open(path: Path, held: ExitStack) -> Members:
    with _told(path):
        if path.is_dir():
            return _Folder(path)
        file = held.enter_context(path.open("rb"))
        is_gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return _unpack(path, file, held) if is_gzipped else _Archive(path, file)


class _Archive:
    """The members of a tar archive that is not compressed; they are read where they lie."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._found: dict[str, tarfile.TarInfo] = {}
        size = os.fstat(file.fileno()).st_size
        headers = _Headers(file)
        self._archive = tarfile.TarFile(fileobj=headers)  # type: ignore[arg-type]
        for name, member in _checked(path, self._archive):
            if member.offset_data + member.size > size:
                raise damaged(f"{path}: {name}", "it is cut short: fetch the file again")
            self._found[name] = member
        headers.most = WEIGHT_BYTES

    def read(self, name: str) -> bytes:
        """See `Members.read`."""
        with _told(f"{self._path}: {name}"), self._open(name) as file:
            return file.read()

    def open_weights(self) -> IO[bytes]:
        """See `Members.open_weights`."""
        return self._open(WEIGHTS)

    def _open(self, name: str) -> IO[bytes]:
        member = self._found.get(name)
        where = f"{self._path}: {name}"
        if member is None:
            raise _missing(where)
        _refuse_large(where, name, member.size)
        file = self._archive.extractfile(member)
        assert file is not None
        return file


class _Folder:
    """The files of a folder that an archive was unpacked to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> bytes:
        """See `Members.read`."""
        with self._open(name) as file:
            return file.read()

    def open_weights(self) -> IO[bytes]:
        """See `Members.open_weights`."""
        return self._open(WEIGHTS)

    def _open(self, name: str) -> IO[bytes]:
        where = f"{self._path}: {name}"
        try:
            file = (self._path / name).resolve()
            if not file.is_relative_to(self._path.resolve()):
                raise wrong(where, "it lies outside the folder")
            if file.is_symlink():
                # What leads to itself is resolved no further; before Python 3.13 that was an error.
                raise wrong(where, "it is no name of a file (a ring of links)")
            if not file.is_file():
                raise _missing(where)
            _refuse_large(where, name, file.stat().st_size)
            return file.open("rb")
        except OSError as error:
            raise unreadable(where, error) from error
        except (RuntimeError, ValueError) as error:
            # A ring of links; a name that no file can have.
            raise wrong(where, f"it is no name of a file ({first_line(error)})") from error


class _Unpacked:
    """The members of a gzipped archive: the weights in a file, all others in memory."""

    def __init__(self, path: Path, small: dict[str, bytes], weights: IO[bytes] | None) -> None:
        self._path = path
        self._small = small
        self._weights = weights

    def read(self, name: str) -> bytes:
        """See `Members.read`."""
        if name not in self._small:
            raise _missing(f"{self._path}: {name}")
        return self._small[name]

    def open_weights(self) -> IO[bytes]:
        """See `Members.open_weights`."""
        if self._weights is None:
            raise _missing(f"{self._path}: {WEIGHTS}")
        self._weights.seek(0)
        return os.fdopen(os.dup(self._weights.fileno()), "rb")


def _unpack(path: Path, file: IO[bytes], held: ExitStack) -> _Unpacked:
    """Unpacks a gzipped archive, its weights into a file that is closed with `held`."""
    small: dict[str, bytes] = {}
    weights: IO[bytes] | None = None
    most = MOST_RATIO * os.fstat(file.fileno()).st_size + SMALL_BYTES
    content = _Content(path, gzip.GzipFile(fileobj=file), most)
    with tarfile.open(fileobj=content, mode="r|", bufsize=_READ_AHEAD) as archive:  # type: ignore[call-overload]
        for name, member in _checked(path, archive):
            where = f"{path}: {name}"
            content.begin(where, member.size)
            if not member.isfile():
                continue
            _refuse_large(where, name, member.size)
            source = archive.extractfile(member)
            assert source is not None
            if name == WEIGHTS:
                weights = _copied(source, where, member.size, held)
            else:
                small[name] = source.read()
    return _Unpacked(path, small, weights)


def _copied(source: IO[bytes], where: str, size: int, held: ExitStack) -> IO[bytes]:
    """Copies a member to a file without a name, which nothing leaves behind whenever the process ends."""
    folder = "the folder of temporary files"
    try:
        folder = tempfile.gettempdir()
        # Unbuffered: no room shows at the write.
        copy: IO[bytes] = held.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - `held` closes it
    except OSError as error:
        raise not_unpacked(where, folder, size, error) from error
    while block := source.read(_BLOCK):
        try:
            while block:
                block = block[copy.write(block) :]
        except OSError as error:
            raise not_unpacked(where, folder, size, error) from error
    return copy


class _Headers:
    """A tar archive's file whose headers are looked at: no more is read at once than `most`.

    Attributes:
        most: bytes of a read.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.most = HEADER_BYTES
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.most:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


class _Content:
    """What a gzipped tar archive unpacks to, as far as headers, members and the whole keep to their bounds."""

    def __init__(self, path: Path, source: gzip.GzipFile, most: int) -> None:
        self._source = source
        self._left = most
        self._path = path
        # Until the next member begins; the archive's reader is ahead of what it tells.
        self._until_next = HEADER_BYTES + 2 * _READ_AHEAD

    def begin(self, where: str, size: int) -> None:
        """Makes room for a member of so many bytes and for the header of the next one."""
        if size > self._left:
            raise damaged(where, f"it would unpack to more than {MOST_RATIO} times the file's size")
        self._until_next = size + HEADER_BYTES + 2 * _READ_AHEAD

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        self._until_next -= len(data)
        if self._left < 0:
            raise damaged(self._path, f"it would unpack to more than {MOST_RATIO} times its size")
        if self._until_next < 0:
            raise damaged(self._path, f"it has a header of more than {HEADER_BYTES} bytes")
        return data


def _checked(path: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yields the members with their names, without a leading `./`.

    Raises:
        ModelError: one leads out of the archive, is of no possible size, or there are too many.
    """
    for number, member in enumerate(archive):
        name, where = PurePosixPath(member.name), f"{path}: {member.name[:_SHOWN_CHARS]}"
        if name.is_absolute() or ".." in name.parts or member.issym() or member.islnk() or member.isdev():
            raise wrong(where, "it leads out of the archive")
        # One of less than no bytes is come to again and again.
        if member.size < 0 or member.issparse():
            raise damaged(where, "it is sparse, or has less than no bytes: NeMo writes plain members")
        if number >= MOST_MEMBERS:
            raise wrong(path, f"it has more than {MOST_MEMBERS} members")
        yield str(name), member


@contextmanager
def _told(where: Path | str) -> Iterator[None]:
    """Turns the errors of archives that are damaged or cannot be read into ModelError."""
    try:
        yield
    # Sizes and times that are no numbers are a ValueError.
    except (
        *(tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError),
        *(ValueError, OverflowError, RecursionError),
    ) as error:
        raise damaged(
            where,
            f"it is no .nemo archive, or damaged ({first_line(error)}): fetch it again; a few hundred bytes are often "
            "a Git LFS pointer",
        ) from error
    except OSError as error:
        raise unreadable(where, error) from error


def _refuse_large(where: str, name: str, size: int) -> None:
    most = {WEIGHTS: WEIGHT_BYTES, CONFIG: CONFIG_BYTES}.get(name, SMALL_BYTES)
    if size > most:
        raise wrong(where, f"it has {size} bytes; at most {most} are read")


def _missing(where: str) -> DamagedModel:
    return damaged(where, "it is missing")

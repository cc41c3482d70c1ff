"""Reads a `.nemo` file: its configuration, its weights, and the files that the configuration names.

A `.nemo` is a tar archive, gzipped or not, or the folder that one was unpacked to: `model_config.yaml`,
`model_weights.ckpt` (written by `torch.save`) and the tokenizer's files, which the configuration names as
`nemo:<member>`. Nothing is unpacked but the weights of a gzipped one, and nothing in it can run code: YAML is read by
the safe reader, weights are numbers only.
"""

from __future__ import annotations

import gzip
import pickle
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

import torch
import yaml

from asr_service.core.errors import ModelError
from asr_service.model.nemo_file.config import Section
from asr_service.model.nemo_file.weights import WeightReader
from asr_service.model.out_of_memory import is_out_of_memory

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
SMALL_BYTES = 64 * 2**20
"""Most bytes of a member that is not the weights: the largest known tokenizer has half a megabyte."""
WEIGHT_BYTES = 64 * 2**30
"""Most bytes of the weights."""
MOST_RATIO = 50
"""Largest size of a gzipped file's content over its own: weights hardly shrink at all."""
_ARTIFACT = "nemo:"


class _Members(Protocol):
    """The members of an archive, or the files of a folder."""

    def read(self, name: str) -> bytes:
        """Returns a small member's bytes. Raises ModelError if it is missing or too large."""
        ...

    def open_weights(self) -> IO[bytes]:
        """Opens the weights, so that they can be read from any place. Raises ModelError as `read` does."""
        ...


class NemoFile:
    """An open model file.

    Args:
        path: of the file or folder, for messages.
        members: what it holds.

    Attributes:
        path: as given.
        config: the whole configuration.

    Raises:
        ModelError: the configuration is missing or cannot be read.
    """

    def __init__(self, path: Path, members: _Members) -> None:
        self.path = path
        self._members = members
        text = members.read(CONFIG)
        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise _wrong(path, CONFIG, f"it is not plain YAML: {_first_line(error)}") from error
        if not isinstance(values, Mapping):
            raise _wrong(path, CONFIG, "it should be a mapping")
        self.config = Section(values, f"{path}: {CONFIG}: ")

    def artifact(self, named: str) -> bytes:
        """Returns the bytes of a file that the configuration names, as `nemo:<member>`.

        Raises:
            ModelError: it is missing, too large, or lies elsewhere.
        """
        if not named.startswith(_ARTIFACT):
            raise _wrong(
                self.path,
                CONFIG,
                f"it names the file {named!r}, which is not in the archive (it should begin with {_ARTIFACT!r})",
            )
        return self._members.read(named.removeprefix(_ARTIFACT))

    def weights(self, device: torch.device) -> WeightReader:
        """Reads the weights.

        Args:
            device: where they are wanted.

        Raises:
            ModelError: they are missing or damaged, or hold more than numbers. That there is no memory for them is
                raised as it came.
        """
        with self._members.open_weights() as file:
            self._refuse_bomb(file)
            try:
                tensors = torch.load(file, map_location=device, weights_only=True)
            except pickle.UnpicklingError as error:
                raise _wrong(
                    self.path,
                    WEIGHTS,
                    "it holds other things than numbers, which could run code while they are read: save the model "
                    f"again with save_to ({_first_line(error)})",
                ) from error
            except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
                if is_out_of_memory(error):
                    raise
                raise _wrong(self.path, WEIGHTS, f"it is damaged: {_first_line(error)}") from error
        if not isinstance(tensors, Mapping):
            raise _wrong(self.path, WEIGHTS, "it should hold tensors by name")
        return WeightReader(tensors, f"{self.path}: {WEIGHTS}")

    def _refuse_bomb(self, file: IO[bytes]) -> None:
        """Raises ModelError if the weights are not what `torch.save` writes, or grow while they are read."""
        try:
            with zipfile.ZipFile(file) as archive:
                grows = any(
                    entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size
                    for entry in archive.infolist()
                )
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise _wrong(
                self.path,
                WEIGHTS,
                "it is damaged or not written by torch.save: fetch or save the model again",
            ) from error
        if grows:
            raise _wrong(self.path, WEIGHTS, "it is compressed, which torch.save never does")
        file.seek(0)


@contextmanager
def open_nemo(path: Path) -> Iterator[NemoFile]:
    """Opens a model file or the folder that one was unpacked to.

    Raises:
        ModelError: it is neither, is damaged, or has members that lie outside it.
    """
    if path.is_dir():
        yield NemoFile(path, _Folder(path))
        return
    try:
        with path.open("rb") as file:
            is_gzipped = file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", field="ASR_MODEL") from error
    if is_gzipped:
        with tempfile.TemporaryDirectory(prefix="asr-model-") as folder:
            yield NemoFile(path, _unpack(path, Path(folder)))
        return
    with _damage_told(path), tarfile.open(path, "r:") as archive:
        yield NemoFile(path, _Archive(path, archive))


class _Archive:
    """The members of a tar archive that is not compressed; they are read where they lie."""

    def __init__(self, path: Path, archive: tarfile.TarFile) -> None:
        self._path = path
        self._archive = archive
        self._found: dict[str, tarfile.TarInfo] = {}
        size = path.stat().st_size
        for member in archive:
            name = _inside(path, member)
            if member.isfile():
                if member.offset_data + member.size > size:
                    raise _wrong(path, name, "it is cut short: fetch the file again")
                self._found[name] = member

    def _open(self, name: str, most: int) -> IO[bytes]:
        member = self._found.get(name)
        if member is None:
            raise _missing(self._path, name)
        _refuse_large(self._path, name, member.size, most)
        file = self._archive.extractfile(member)
        assert file is not None
        return file

    def read(self, name: str) -> bytes:
        with self._open(name, SMALL_BYTES) as file:
            return file.read()

    def open_weights(self) -> IO[bytes]:
        return self._open(WEIGHTS, WEIGHT_BYTES)


class _Folder:
    """The files of a folder that an archive was unpacked to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _file(self, name: str, most: int) -> Path:
        file = self._path / name
        if not file.resolve().is_relative_to(self._path.resolve()):
            raise _wrong(self._path, name, "it lies outside the folder")
        if not file.is_file():
            raise _missing(self._path, name)
        _refuse_large(self._path, name, file.stat().st_size, most)
        return file

    def read(self, name: str) -> bytes:
        return self._file(name, SMALL_BYTES).read_bytes()

    def open_weights(self) -> IO[bytes]:
        return self._file(WEIGHTS, WEIGHT_BYTES).open("rb")


class _Unpacked:
    """The members of a gzipped archive: the weights in a file, all others in memory."""

    def __init__(self, path: Path, small: dict[str, bytes], weights: Path) -> None:
        self._path = path
        self._small = small
        self._weights = weights

    def read(self, name: str) -> bytes:
        if name not in self._small:
            raise _missing(self._path, name)
        return self._small[name]

    def open_weights(self) -> IO[bytes]:
        if not self._weights.exists():
            raise _missing(self._path, WEIGHTS)
        return self._weights.open("rb")


def _unpack(path: Path, folder: Path) -> _Unpacked:
    """Unpacks a gzipped archive, its weights into the folder."""
    small: dict[str, bytes] = {}
    weights = folder / WEIGHTS
    most = MOST_RATIO * path.stat().st_size + SMALL_BYTES
    with _damage_told(path), tarfile.open(path, "r|gz") as archive:
        for member in archive:
            name = _inside(path, member)
            most -= member.size
            if most < 0:
                raise _wrong(path, name, f"it would unpack to more than {MOST_RATIO} times the file's size")
            if not member.isfile():
                continue
            _refuse_large(path, name, member.size, WEIGHT_BYTES if name == WEIGHTS else SMALL_BYTES)
            file = archive.extractfile(member)
            assert file is not None
            if name == WEIGHTS:
                with weights.open("wb") as out:
                    while block := file.read(1 << 20):
                        out.write(block)
            else:
                small[name] = file.read()
    return _Unpacked(path, small, weights)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Turns the errors of damaged archives into ModelError."""
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ModelError(
            f"{path} is no .nemo archive, or damaged ({_first_line(error)}): fetch it again; a few hundred bytes are "
            "often a Git LFS pointer",
            field="ASR_MODEL",
        ) from error


def _inside(path: Path, member: tarfile.TarInfo) -> str:
    """Returns the name of a member without a leading `./`. Raises ModelError if it leads out of the archive."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or member.issym() or member.islnk() or member.isdev():
        raise _wrong(path, member.name, "it leads out of the archive")
    return str(name)


def _refuse_large(path: Path, name: str, size: int, most: int) -> None:
    if size > most:
        raise _wrong(path, name, f"it has {size} bytes; at most {most} are read")


def _missing(path: Path, name: str) -> ModelError:
    return _wrong(path, name, "it is missing")


def _wrong(path: Path, member: str, what: str) -> ModelError:
    return ModelError(f"{path}: {member}: {what}", field="ASR_MODEL")


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__

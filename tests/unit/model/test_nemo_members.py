"""Members of model files: damaged archives, archives made to harm, and files that the system does not let be read."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import resource
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_service.core.errors import DamagedModel, ModelError, ModelUnavailable
from asr_service.model.nemo_file.members import (
    HEADER_BYTES,
    MOST_MEMBERS,
    MOST_RATIO,
    SMALL_BYTES,
    open_members,
)
from asr_service.model.nemo_file.names import CONFIG, WEIGHTS
from tests.support.nemo_files import write
from tests.support.rights import without_rights

SMALL = {CONFIG: b"encoder: {}\n", "tokenizer.model": b"pieces", WEIGHTS: bytes(range(256)) * 8}
MODES = pytest.mark.parametrize("mode", ["w", "w:gz"])


def read(path: Path) -> dict[str, bytes]:
    with open_members(path) as members:
        with members.open_weights() as file:
            weights = file.read()
        return {name: members.read(name) for name in SMALL if name != WEIGHTS} | {WEIGHTS: weights}


@MODES
def test_weights_are_read_from_any_place_and_again(tmp_path: Path, mode: str) -> None:
    path = write(tmp_path / "m.nemo", SMALL, mode)
    assert read(path) == SMALL
    with open_members(path) as members:
        for _ in range(2):
            with members.open_weights() as file:
                assert file.seek(-10, io.SEEK_END) == 2038 and file.read() == SMALL[WEIGHTS][-10:]


def test_nothing_is_left_where_a_gzipped_file_was_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while it is open: a process that is killed then leaves nothing behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    path = write(tmp_path / "m.nemo", SMALL, "w:gz")
    with open_members(path) as members, members.open_weights() as file:
        assert file.read() == SMALL[WEIGHTS] and not list(folder.iterdir())


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_to_unpack_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.nemo", {**SMALL, WEIGHTS: os.urandom(1 << 16)}, "w:gz")
    told = f"^ASR_MODEL: {path}: {WEIGHTS} cannot be unpacked into {tempfile.gettempdir()} .*65536 bytes.* TMPDIR"
    with no_file_larger_than(1 << 14), pytest.raises(ModelUnavailable, match=told) as full:
        read(path)
    assert full.value.field == "ASR_MODEL"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"cannot be unpacked into .*none \(No such file or directory\)"):
        read(path)


def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "m.nemo", SMALL)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, data in SMALL.items():
        (folder / name).write_bytes(data)
    assert read(folder) == SMALL
    with (
        without_rights(path),
        pytest.raises(ModelError, match=f"{path} cannot be read: Permission denied; give"),
    ):
        read(path)
    with (
        without_rights(folder / "tokenizer.model"),
        pytest.raises(
            ModelError, match=r"tokenizer\.model cannot be read: Permission denied; give this user"
        ),
    ):
        read(folder)
    with without_rights(folder), pytest.raises(ModelError, match=r"cannot be read: Permission denied"):
        read(folder)
    with open_members(folder) as members:
        with pytest.raises(ModelError, match="cannot be read: File name too long"):
            members.read("n" * 300)
        with pytest.raises(ModelError, match="it is no name of a file"):
            members.read("a\0b")
        (folder / "ring").symlink_to("ring")
        with pytest.raises(ModelError, match="ring: it is no name of a file"):
            members.read("ring")


def test_a_gzipped_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nemo"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo(WEIGHTS)
        info.size = SMALL_BYTES + 2 * MOST_RATIO * 2**20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    assert path.stat().st_size < 2**20
    with pytest.raises(ModelError, match=f"{WEIGHTS}: it would unpack to more than {MOST_RATIO} times"):
        read(path)


@MODES
@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_header_that_grows_is_refused(tmp_path: Path, mode: str, kind: int) -> None:
    """Names may be of any length, and are read before their member is handed out."""
    path = tmp_path / "bomb.nemo"
    with tarfile.open(path, mode, format=kind) as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("n" * (HEADER_BYTES + 2**14)))
    with pytest.raises(DamagedModel, match="a header of"):
        read(path)


@MODES
def test_too_many_members_are_refused(tmp_path: Path, mode: str) -> None:
    path = write(tmp_path / "m.nemo", {str(number): b"" for number in range(MOST_MEMBERS + 1)}, mode)
    with pytest.raises(ModelError, match=f"it has more than {MOST_MEMBERS} members"):
        read(path)


@MODES
def test_a_member_of_less_than_no_bytes_is_refused(tmp_path: Path, mode: str) -> None:
    """An archive's reader would come to it again and again."""
    header = bytearray(tarfile.TarInfo(CONFIG).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + bytes(2048)
    path = tmp_path / "m.nemo"
    path.write_bytes(gzip.compress(data) if mode == "w:gz" else data)
    with pytest.raises(DamagedModel, match=f"{CONFIG}: it is sparse, or has less than no bytes"):
        read(path)


@MODES
@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_never_pass_for_another_error(tmp_path: Path, mode: str, seed: int) -> None:
    """Wherever bytes are wrong, the members are read, or the file is refused; nothing else is raised.

    Every other time the checksums of the headers are right again, as an attacker would have them.
    """
    whole = write(tmp_path / "whole.nemo", SMALL).read_bytes().rstrip(b"\0") + bytes(1024)
    headers = [place for place in range(0, len(whole), 512) if whole[place + 257 : place + 262] == b"ustar"]
    assert len(headers) == len(SMALL)
    chance = random.Random(seed)
    refused = 0
    for turn in range(150):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3))):
            place = chance.choice(headers) + chance.randrange(512)
            data[place] = chance.choice((0, 255, chance.randrange(256), data[place] ^ 1))
        for place in headers if turn % 2 else ():
            data[place + 148 : place + 156] = b" " * 8
            data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])
        path = tmp_path / "m.nemo"
        path.write_bytes(gzip.compress(data, 1) if mode == "w:gz" else data)
        try:
            read(path)
        except ModelError:
            refused += 1
    assert refused > 20

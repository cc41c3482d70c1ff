"""A model's weights as `torch.save` writes them, damaged, or made to harm."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_service.core.errors import AsrError, DamagedModel, ModelError
from asr_service.model.nemo_file.weights import WeightReader, read_weights
from tests.support.nemo_files import saved

CPU = torch.device("cpu")
WHERE = "m.nemo: model_weights.ckpt"


def read(data: bytes, device: torch.device = CPU) -> WeightReader:
    return read_weights(io.BytesIO(data), WHERE, device)


def repacked(data: bytes, compression: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(packed, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return packed.getvalue()


def test_weights_that_grow_while_they_are_read_are_refused() -> None:
    data = saved({"a": torch.zeros(1000)})
    assert torch.equal(read(repacked(data, zipfile.ZIP_STORED)).take("a", 1000), torch.zeros(1000))
    with pytest.raises(
        DamagedModel, match=f"^ASR_MODEL: {WHERE}: it is compressed, which torch.save never does"
    ):
        read(repacked(data, zipfile.ZIP_DEFLATED))


def test_entries_that_lie_at_one_place_are_refused() -> None:
    """Sixty entries of the directory that point at the bytes of one."""
    data = io.BytesIO(saved({f"w{n}": torch.full((5000,), float(n)) for n in range(60)}))
    with zipfile.ZipFile(data, "a") as archive:
        entries = [entry for entry in archive.infolist() if entry.file_size == 20_000]
        assert len(entries) == 60
        for entry in entries:
            entry.header_offset = entries[0].header_offset
        # The directory is written again after this.
        archive.writestr("archive/more", b"")
    whole = data.getvalue()
    directory = whole.rindex(b"PK\x05\x06")
    start = int.from_bytes(whole[directory + 16 : directory + 20], "little")
    end = max(entry.header_offset + 21_000 for entry in entries)
    # What the other entries had is cut out.
    tail = bytearray(whole[start:])
    tail[directory - start + 16 : directory - start + 20] = end.to_bytes(4, "little")
    with pytest.raises(DamagedModel, match=r"its entries have \d{7} bytes together, and it has \d+"):
        read(whole[:end] + bytes(tail))


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (lambda: torch.eye(3).to_sparse(), "a is a tensor that is sparse or nested"),
        (lambda: torch.eye(3).to_sparse_csr(), "a is a tensor that is sparse or nested"),
        (lambda: torch.empty(10**6, 10**6, device="meta"), "a is a tensor that is without numbers"),
        (
            lambda: torch.zeros(1).expand(1 << 40),
            r"a has the shape \[1099511627776\], but not so many numbers",
        ),
        (lambda: [1.0], "a is a list; it should be a tensor"),
        (lambda: "text", "a is a str; it should be a tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Sparse (CSR|invariant).*:UserWarning")
def test_what_is_no_plain_tensor_is_refused(tensor: Callable[[], Any], told: str) -> None:
    with pytest.raises(DamagedModel, match=f"^ASR_MODEL: {WHERE}: {told}"):
        read(saved({"a": tensor()}))


def test_weights_that_share_their_numbers_are_refused() -> None:
    """But for a few: all layers of a model may have the same position biases."""
    one = torch.randn(1000)
    assert len(read(saved({"a": one, "b": one})).left_over()) == 2
    with pytest.raises(DamagedModel, match="its tensors have 400000 bytes, but share 4000"):
        read(saved({f"w{n}": one for n in range(100)}))


def test_names_that_are_no_texts_are_refused() -> None:
    with pytest.raises(DamagedModel, match="it has a int for a name; it should be a text"):
        read(saved({"a": torch.zeros(1), 3: torch.zeros(1)}))
    with pytest.raises(DamagedModel, match="it should hold tensors by name"):
        read(saved([torch.zeros(1)]))


class Harm:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_weights_run_no_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(DamagedModel, match="could run code"):
        read(saved({"a": Harm(mark)}))
    with pytest.raises(DamagedModel, match=r"it is damaged or not written by torch\.save"):
        read(pickle.dumps(Harm(mark)))
    assert not mark.exists()


def test_an_error_of_the_device_is_no_damage() -> None:
    """No machine has so many GPUs: torch's own error comes through."""
    with pytest.raises((RuntimeError, AssertionError)) as caught:
        read(saved({"a": torch.zeros(1)}), torch.device("cuda:93"))
    assert not isinstance(caught.value, AsrError)


def test_flipped_bytes_never_pass_for_another_error() -> None:
    """Wherever a byte is wrong, the weights are read, or refused as damaged; nothing else is raised."""
    data = saved({f"layer.{n}.weight": torch.randn(2, 3) for n in range(4)})
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in range(len(data)):
            changed = bytearray(data)
            changed[place] ^= (0x41, 0xFF, 0x80)[place % 3]
            try:
                read(bytes(changed))
            except ModelError as error:
                refused += isinstance(error, DamagedModel)
    assert refused > len(data) / 10

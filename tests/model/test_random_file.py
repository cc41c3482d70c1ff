"""Files of random weights that are written without NeMo are what NeMo itself would save."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_service.model.reference.nemo_model import read_nemo
from testbed.random_file import write_random_file
from testbed.shapes import CLASSES, SHAPES
from tests.support.nemo_reads import nemo_reads


@nemo_reads
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", ["tiny", "nemotron-3.5", "ctc"])
def test_nemo_reads_every_weight_and_no_other(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.nemo"
    write_random_file(SHAPES[name], path, seed=3)
    nemo = read_nemo(path, torch.device("cpu"), "the comparison")
    assert type(nemo).__name__ == CLASSES[SHAPES[name].kind]
    saved, again = nemo.state_dict(), tmp_path / "again.nemo"
    write_random_file(SHAPES[name], again, seed=3)
    for key, value in read_nemo(again, torch.device("cpu"), "the comparison").state_dict().items():
        assert torch.equal(value, saved[key]), key


def test_mel_filters_are_those_of_nemo() -> None:
    from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures

    from testbed.random_parts import mel_filters

    for mels in (80, 128):
        made = FilterbankFeatures(n_window_size=400, n_window_stride=160, n_fft=512, nfilt=mels)
        assert (mel_filters(mels) - made.fb[0]).abs().max() < 1e-8

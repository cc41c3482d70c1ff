"""What training computes itself equals NeMo's: log-mels and the subsampling convolutions."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from demo_model.features import log_mel


def test_log_mels_equal_nemos_preprocessor() -> None:
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

    rng = np.random.default_rng(2)
    audio = (0.1 * rng.standard_normal(16000)).astype(np.float32)
    theirs = AudioToMelSpectrogramPreprocessor(
        normalize="NA", window_size=0.025, window_stride=0.01, features=80, n_fft=512, dither=0.0, pad_to=0
    )
    theirs.eval()
    wanted, _ = theirs(input_signal=torch.from_numpy(audio)[None], length=torch.tensor([16000]))
    np.testing.assert_allclose(log_mel(audio), wanted[0, :, :100].T.numpy(), atol=2e-3)


@pytest.mark.slow
def test_compiled_stem_equals_the_masked_convolutions() -> None:
    from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling

    from demo_model import stem

    torch.manual_seed(0)
    plain = ConvSubsampling(
        "dw_striding", 8, 80, 32, 16, activation=torch.nn.ReLU(inplace=True), is_causal=True
    )
    compiled = copy.deepcopy(plain)
    stem.install(compiled.conv)
    x, lengths = torch.randn(4, 83, 80), torch.tensor([83, 80, 8, 1])
    (wanted, sizes), (found, mine) = plain(x, lengths), compiled(x, lengths)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert torch.equal(sizes, mine)
    weights = torch.randn_like(wanted)
    (wanted * weights).sum().backward()
    (found * weights).sum().backward()
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3)

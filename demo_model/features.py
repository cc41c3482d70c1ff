"""Log-mel features equal to NeMo's preprocessor with dither 0, and the resampling in front of it."""

from __future__ import annotations

from functools import cache

import librosa
import numpy as np
import soxr
import torch

RATE, MELS, HOP, WINDOW, FFT = 16000, 80, 160, 400, 512
FLOOR = 2.0**-24  # added before the logarithm, so digital silence is log(FLOOR)
LOG_FLOOR = float(np.log(FLOOR))


@cache
def _constants() -> tuple[torch.Tensor, torch.Tensor]:
    bank = librosa.filters.mel(sr=RATE, n_fft=FFT, n_mels=MELS, fmin=0, fmax=RATE / 2, norm="slaney")
    return torch.from_numpy(bank).float(), torch.hann_window(WINDOW, periodic=False)


def resample(audio: np.ndarray, rate: int) -> np.ndarray:
    """Bring float32 [samples] at `rate` Hz to 16 kHz."""
    return audio if rate == RATE else soxr.resample(audio, rate, RATE, quality="HQ").astype(np.float32)


def log_mel(audio: np.ndarray) -> np.ndarray:
    """Turn float32 [samples] at 16 kHz into float32 [samples // 160, 80] log-mel frames."""
    bank, window = _constants()
    wave = torch.from_numpy(np.ascontiguousarray(audio, np.float32))
    wave = torch.cat((wave[:1], wave[1:] - 0.97 * wave[:-1]))
    spectrum = torch.stft(
        wave, FFT, HOP, WINDOW, window=window, center=True, pad_mode="constant", return_complex=True
    )
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.log(bank @ power + FLOOR).T[: len(audio) // HOP].contiguous().numpy()

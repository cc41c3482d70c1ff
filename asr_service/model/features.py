"""Makes log-mel features of many streams at once, a chunk at a time, equal to NeMo's on the whole waveform.

With `normalize: "NA"` a mel frame depends on its own window only. What a step must remember is therefore the samples
that the next step's first window reaches back into. See `chunk_plan.py` for which samples those are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.nemo_file.feature_shape import FeatureShape
from asr_service.model.nemo_file.weights import WeightReader


class FeatureExtractor:
    """Makes log-mel features a chunk at a time, as NeMo's `FilterbankFeatures` does of whole waveforms.

    The tail of each slot is its last `tail_samples` raw samples, float32 [slots, tail_samples].

    Args:
        shape: constants of the features.
        weights: of the model file, whose window and filter bank are taken.
        plan: geometry of the model.
        slots: rows of pooled state.
        device: of the state and the arithmetic.

    Raises:
        ModelError: the window or the filter bank is missing or has another shape.
    """

    def __init__(
        self, shape: FeatureShape, weights: WeightReader, plan: ChunkPlan, slots: int, device: torch.device
    ) -> None:
        self._plan = plan
        self._shape = shape
        spare = shape.n_fft - plan.window
        # Where windowed frames stand in what is transformed, as in torch.stft: elsewhere the powers would be the same,
        # but their rounding would not. The memory is kept, with zeros around them: a step would find it anew by faults.
        self._centre = slice(spare // 2, spare // 2 + plan.window)
        self._windowed = torch.zeros(0, plan.chunk_mels, shape.n_fft, device=device)
        window = torch.ones(plan.window)
        if shape.has_window:
            window = weights.take("preprocessor.featurizer.window", plan.window)
        self._window = window.to(device)
        bank = weights.take("preprocessor.featurizer.fb", 1, shape.mels, shape.n_fft // 2 + 1)
        self._filters = bank[0].to(device).t().contiguous()
        self._tails = torch.zeros(slots, plan.tail_samples, device=device)
        self._column = torch.arange(plan.chunk_samples + plan.tail_samples - 1, device=device)

    @property
    def mels(self) -> int:
        """Features of a frame."""
        return int(self._filters.shape[1])

    @property
    def working_memory(self) -> Tensor:
        """Memory that steps write to; another one takes its place for a batch that is larger than those before."""
        return self._windowed

    def step(self, slots: Tensor, audio: Tensor, ends: tuple[Tensor, Tensor] | Tensor | None) -> Tensor:
        """Makes the mel frames of one step.

        Args:
            slots: rows of the tails, int64 [B].
            audio: float32 [B, chunk_samples]: the new samples. A first step's are right-aligned with zeros before, a
                last step's left-aligned (after that offset, if it is both) with zeros after.
            ends: rows whose samples end before `audio` does, int64 [n], and where they end, int64 [n]; None for none.
                Or where each row's samples end, int64 [B].

        Returns:
            float32 [B, chunk_mels, mels]. Frames outside the stream hold whatever their windows gave; the caller masks
            them.
        """
        plan = self._plan
        raw = torch.cat([self._tails[slots], audio], dim=1)
        self._tails[slots] = raw[:, -plan.tail_samples :]
        signal = raw[:, 1:] - self._shape.preemphasis * raw[:, :-1]
        if isinstance(ends, Tensor):
            signal = signal.masked_fill(self._column == (ends + (plan.tail_samples - 1))[:, None], 0.0)
        elif ends is not None:
            # Pre-emphasis leaves a trace of the last sample just after it, where NeMo has zeros.
            ending, end = ends
            signal[ending, end + (plan.tail_samples - 1)] = 0.0
        shape, rows = self._shape, len(slots)
        if rows > len(self._windowed):
            self._windowed = torch.zeros(rows, plan.chunk_mels, shape.n_fft, device=signal.device)
        windowed = self._windowed[:rows]
        torch.mul(signal.unfold(1, plan.window, plan.hop), self._window, out=windowed[..., self._centre])
        spectrum = torch.fft.rfft(windowed)
        power = spectrum.real.square()
        power += spectrum.imag.square()
        if shape.power != 2.0:
            power = power.pow(shape.power / 2.0)
        mel: Tensor = power @ self._filters
        if not shape.log:
            return mel
        return torch.log(mel + shape.guard if shape.guard_added else mel.clamp(min=shape.guard))

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], at the start of a stream."""
        # A number that is assigned by an index goes to a GPU in a copy that is waited for; this does not.
        self._tails.index_fill_(0, slots, 0.0)

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        return self._tails[0].numel() * self._tails.element_size()

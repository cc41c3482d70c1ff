"""Works out how many samples, mel frames and encoder frames make a chunk. Integers only.

Mel frame t is centred on sample `hop * t` and is exact once `half_window` samples after it have arrived. Encoder
frame i needs mel frames up to `stride * i`. A step makes `chunk_frames` encoder frames, so after k steps `stride *
chunk * k - (stride - 1)` mel frames are used. To give every step the same shape, the first is thought of as starting
`stride - 1` mel frames before the stream; those frames are masked out in every layer of the subsampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """The geometry of a model at one look-ahead.

    Attributes:
        hop: samples between mel frames.
        window: samples of the analysis window.
        stride: mel frames that an encoder frame stands for (the subsampling factor, a power of two).
        chunk_frames: encoder frames that a step makes (look-ahead + 1).
        left_frames: encoder frames before the chunk that attention sees.
    """

    hop: int
    window: int
    stride: int
    chunk_frames: int
    left_frames: int

    @property
    def chunk_mels(self) -> int:
        """Mel frames of a step."""
        return self.stride * self.chunk_frames

    @property
    def chunk_samples(self) -> int:
        """New samples that every step but the first needs."""
        return self.hop * self.chunk_mels

    @property
    def first_missing(self) -> int:
        """Samples by which the first step needs fewer than the others."""
        return self.hop * self.stride - self.half_window

    @property
    def first_chunk_samples(self) -> int:
        """Samples that the first step needs."""
        return self.chunk_samples - self.first_missing

    @property
    def half_window(self) -> int:
        """Samples after its centre that a mel frame needs."""
        return self.window // 2

    @property
    def tail_samples(self) -> int:
        """Samples of the past that the next step's windows reach into, one more for the pre-emphasis."""
        return self.window - self.hop + 1

    @property
    def sampling_layers(self) -> int:
        """Stride-2 convolutions of the subsampling."""
        return self.stride.bit_length() - 1

    def layer_lengths(self, mels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns how many frames streams have before the subsampling and after each of its layers.

        Each layer pads two frames on the left and one on the right: n frames become n // 2 + 1. No frames stay none.

        Args:
            mels: mel frames of the streams, [n].

        Returns:
            [1 + sampling_layers, n].
        """
        lengths = [mels]
        for _ in range(self.sampling_layers):
            lengths.append(np.where(mels > 0, lengths[-1] // 2 + 1, 0))
        return np.stack(lengths)

    def last_step_bounds(
        self, steps_before: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Returns how many frames of last steps are real, before the subsampling and after each of its layers.

        Args:
            steps_before: full steps taken before them, [n].
            samples: lengths of the whole streams, [n].

        Returns:
            Counts within the step's own frames, [1 + sampling_layers, n]: `chunk_mels` of them at the input, half as
            many after each layer.
        """
        layer = np.arange(self.sampling_layers + 1)[:, None]
        span = self.chunk_mels >> layer
        # The step's input begins stride - 1 frames early; after each layer half of that (rounded down) remains.
        early = (self.stride - 1) >> layer
        lengths = self.layer_lengths(samples // self.hop)
        bounds: npt.NDArray[np.int64] = np.clip(lengths + early - span * steps_before, 0, span)
        return bounds

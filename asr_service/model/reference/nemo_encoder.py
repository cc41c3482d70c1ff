"""Runs NeMo's own cache-aware encoder step over pooled caches: to compare with, and for models of unknown parts.

It equals the offline encoder except at look-ahead 0, where NeMo puts zero features before the stream in place of the
convolutions' zero padding, and which is refused. Rows with different numbers of mel frames cannot share NeMo's step:
they go in groups.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan


class NemoEncoder:
    """Runs `ConformerEncoder.cache_aware_stream_step` by slot. One thread only: NeMo rewrites its configuration in it.

    Args:
        encoder: NeMo's `ConformerEncoder`, with the look-ahead set.
        plan: geometry of the model.
        mels: features of a mel frame.
        slots: rows of pooled state.
        device: of the encoder.
    """

    def __init__(self, encoder: Any, plan: ChunkPlan, mels: int, slots: int, device: torch.device) -> None:
        self._encoder = encoder
        self._plan = plan
        # NeMo's caches: the attention layers' inputs, the convolutions' contexts, and how full the first are.
        channel, time, _ = encoder.get_initial_cache_state(batch_size=1, device=device)
        self._channel = channel.repeat(1, slots, 1, 1)
        self._time = time.repeat(1, slots, 1, 1)
        self._length = torch.zeros(slots, dtype=torch.int64, device=device)
        # Mel frames of the past that a step after the first takes again.
        past = encoder.streaming_cfg.pre_encode_cache_size
        self._past = int(past[1] if isinstance(past, list) else past)
        self._mels = torch.zeros(slots, self._past, mels, device=device)
        self._drop = int(encoder.streaming_cfg.drop_extra_pre_encoded)

    @property
    def ring_chunks(self) -> int:
        """Chunks of the past that attention sees."""
        return self._plan.left_frames // self._plan.chunk_frames

    def step(self, batch: Batch, mel: Tensor) -> Tensor:
        """Encodes one chunk of each row; see `TorchEncoder.step`."""
        rows = len(batch.slots)
        out = torch.zeros(rows, self._plan.chunk_frames, int(self._encoder.d_model), device=mel.device)
        real = batch.masks[0] if batch.masks is not None else torch.ones_like(mel[:, :, 0], dtype=torch.bool)
        groups: dict[tuple[int, int], list[int]] = {}
        for row in range(rows):
            present = torch.nonzero(real[row]).squeeze(1).tolist()
            if present:
                groups.setdefault((present[0], present[-1] + 1), []).append(row)
        for (low, high), members in groups.items():
            index = torch.tensor(members, device=mel.device)
            frames = self._step_group(batch.slots[index], mel[index, low:high], first=low > 0)
            out[index, : frames.shape[1]] = frames
        return out

    def _step_group(self, slots: Tensor, mel: Tensor, first: bool) -> Tensor:
        """Runs NeMo's step for rows with equally many mel frames.

        Args:
            slots: int64 [B].
            mel: [B, frames, mels].
            first: whether this is the rows' first step.

        Returns:
            [B, encoder frames, d_model].
        """
        features = mel if first else torch.cat([self._mels[slots], mel], dim=1)
        self._mels[slots] = torch.cat([self._mels[slots], mel], dim=1)[:, -self._past :]
        encoded: Tensor
        encoded, lengths, channel, time, length = self._encoder.cache_aware_stream_step(
            processed_signal=features.transpose(1, 2),
            processed_signal_length=torch.full((len(slots),), features.shape[1], device=mel.device),
            cache_last_channel=self._channel[:, slots],
            cache_last_time=self._time[:, slots],
            cache_last_channel_len=self._length[slots],
            keep_all_outputs=True,
            drop_extra_pre_encoded=0 if first else self._drop,
        )
        self._channel[:, slots] = channel
        self._time[:, slots] = time
        self._length[slots] = length
        return encoded.transpose(1, 2)[:, : min(int(lengths.max()), self._plan.chunk_frames)]

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], at the start of a stream."""
        self._channel[:, slots] = 0
        self._time[:, slots] = 0
        self._length[slots] = 0
        self._mels[slots] = 0

    def clear(self, slots: Tensor) -> None:
        """Overwrites all state of the given slots, int64 [n]."""
        self.reset(slots)

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        pools = (self._channel[:, 0], self._time[:, 0], self._mels[0], self._length[0])
        return sum(pool.numel() * pool.element_size() for pool in pools)

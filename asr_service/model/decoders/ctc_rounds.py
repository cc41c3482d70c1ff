"""Greedy CTC by operations of fixed shapes, boosted rows and others alike: what `ctc.CtcDecoder` does, in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.decoders.boosting_tables import BoostTables
from asr_service.model.decoders.rounds import new_out, write_out

if TYPE_CHECKING:
    from asr_service.model.decoders.ctc import CtcDecoder


class CtcRounds:
    """Implements `rounds.Rounds` for a CTC decoder, whose pooled state it shares; its rounds are the chunk's frames.

    Args:
        decoder: of the model.
        tables: of the trees of boosted slots.
        rows: of a batch.
        frames: of a chunk.
    """

    def __init__(self, decoder: CtcDecoder, tables: BoostTables, rows: int, frames: int) -> None:
        self._decoder, self._tables = decoder, tables
        device = decoder.last.device
        self.out = new_out(frames, rows, device)
        self.skipped = torch.zeros(rows, dtype=torch.bool, device=device)
        self._slots = torch.zeros(rows, dtype=torch.int64, device=device)
        self._real = torch.zeros(rows, dtype=torch.int64, device=device)
        self._finite = torch.zeros(rows, dtype=torch.bool, device=device)
        self._encoded = torch.zeros(rows, frames, decoder.weight.shape[1], device=device)

    def begin(self, slots: Tensor, encoded: Tensor, frames: Tensor, finite: Tensor) -> None:
        """See `Rounds.begin`."""
        self._slots.copy_(slots)
        self._real.copy_(frames.masked_fill(self.skipped, 0))
        self._finite.copy_(finite)
        self._encoded.copy_(encoded)

    def run(self) -> None:
        """See `Rounds.run`."""
        decoder, tables, slots = self._decoder, self._tables, self._slots
        blank = decoder.blank
        logits = functional.linear(self._encoded, decoder.weight, decoder.bias)
        label = logits.argmax(dim=-1)
        before = decoder.last[slots], decoder.chosen[slots], tables.at[slots]
        own, chosen, node = before
        emitted = []
        for frame in range(logits.shape[1]):
            own_now, scores = label[:, frame], logits[:, frame]
            is_blank = own_now == blank
            # A run of frames with one best label is one token, chosen in its first frame.
            goes_on = ~is_blank & ((own_now == own) | (own_now == chosen))
            best = (scores[:, :blank] + tables.bonus[node]).argmax(dim=-1).masked_fill(is_blank, blank)
            chosen_now = torch.where(goes_on, chosen, best)
            is_new = (chosen_now != chosen) & (chosen_now != blank)
            token = chosen_now.masked_fill(~is_new, 0)
            prob = decoder.confidence(scores, scores.gather(1, chosen_now[:, None]).squeeze(1))
            node = torch.where(is_new, tables.following[node, token].long(), node)
            emitted.append((is_new & (frame < self._real), token, torch.full_like(token, frame), prob))
            own, chosen = own_now, chosen_now
        for pool, old, new in zip(
            (decoder.last, decoder.chosen, tables.at), before, (own, chosen, node), strict=True
        ):
            pool[slots] = torch.where(self.skipped, old, new)
        write_out(self.out, torch.zeros_like(self._finite), self._finite, emitted)

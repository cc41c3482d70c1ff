"""Greedy RNN-T by operations of fixed shapes: the rounds of `rnnt.RnntDecoder`, of all rows each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.decoders.boosting_tables import BoostTables
from asr_service.model.decoders.rounds import new_out, write_out

if TYPE_CHECKING:
    from asr_service.model.decoders.rnnt import RnntDecoder

MOST_ROUNDS = 8
"""Of one run, where chunks are long."""


class RnntRounds:
    """Implements `rounds.Rounds` for an RNN-T decoder, whose pooled state it shares.

    A row takes a round for each of its tokens and one to find that there is no more: in a run there are two more than
    frames, and more runs where a row says more than that.

    Args:
        decoder: of the model.
        tables: of the trees of boosted slots.
        rows: of a batch.
        frames: of a chunk.
    """

    def __init__(self, decoder: RnntDecoder, tables: BoostTables, rows: int, frames: int) -> None:
        self._decoder, self._tables = decoder, tables
        device = decoder.g.device
        layers, _, hidden = decoder.h.shape
        joint = decoder.g.shape[1]
        self._rounds = min(frames + 2, MOST_ROUNDS)
        self.out = new_out(self._rounds, rows, device)
        self.skipped = torch.zeros(rows, dtype=torch.bool, device=device)
        # Of the batch, kept from one run to the next: what was given, how far each row has come, its state.
        self._slots = torch.zeros(rows, dtype=torch.int64, device=device)
        self._projected = torch.zeros(rows, frames, joint, device=device)
        self._real, self._at, self._count, self._node = torch.zeros(
            4, rows, dtype=torch.int64, device=device
        ).unbind()
        self._active, self._finite = torch.zeros(2, rows, dtype=torch.bool, device=device).unbind()
        self._h, self._c = torch.zeros(2, layers, rows, hidden, device=device).unbind()
        self._g = torch.zeros(rows, joint, device=device)
        self._frame = torch.arange(frames, device=device)

    def begin(self, slots: Tensor, encoded: Tensor, frames: Tensor, finite: Tensor) -> None:
        """See `Rounds.begin`."""
        decoder = self._decoder
        enc = decoder.weights.enc
        self._slots.copy_(slots)
        self._projected.copy_(functional.linear(encoded, enc.weight, enc.bias))
        self._real.copy_(frames.masked_fill(self.skipped, 0))
        self._finite.copy_(finite)
        self._at.zero_()
        self._count.zero_()
        self._active.copy_(self._real > 0)
        self._node.copy_(self._tables.at[slots])
        self._h.copy_(decoder.h[:, slots])
        self._c.copy_(decoder.c[:, slots])
        self._g.copy_(decoder.g[slots])

    def run(self) -> None:
        """See `Rounds.run`."""
        decoder, slots = self._decoder, self._slots
        emitted = [self._round() for _ in range(self._rounds)]
        decoder.h[:, slots], decoder.c[:, slots], decoder.g[slots] = self._h, self._c, self._g
        self._tables.at[slots] = self._node
        write_out(self.out, self._active, self._finite, emitted)

    def _round(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        decoder, tables, last = self._decoder, self._tables, self._decoder.weights.out
        blank = decoder.blank
        joined = decoder.activation(self._projected + self._g.unsqueeze(1))
        logits = functional.linear(joined, last.weight, last.bias)
        found = logits.argmax(dim=-1) != blank
        found &= (self._frame >= self._at[:, None]) & (self._frame < self._real[:, None])
        has = found.any(dim=1) & self._active
        where = found.int().argmax(dim=1)
        scores = logits.gather(1, where[:, None, None].expand(-1, 1, blank + 1)).squeeze(1)
        # The model alone says where a token is; a bonus, which is 0 in most rows, changes which one.
        token = (scores[:, :blank] + tables.bonus[self._node]).argmax(dim=-1)
        prob = decoder.confidence(scores, scores.gather(1, token[:, None]).squeeze(1))
        repeated = torch.where(where == self._at, self._count + 1, 1)
        full = repeated >= decoder.max_symbols
        self._at.copy_(torch.where(has, where + full.long(), self._at))
        self._count.copy_(torch.where(has, repeated.masked_fill(full, 0), self._count))
        new_h, new_c, out = decoder.lstm.step(token, self._h, self._c)
        of_row = has[:, None]
        self._h.copy_(torch.where(of_row, new_h, self._h))
        self._c.copy_(torch.where(of_row, new_c, self._c))
        self._g.copy_(torch.where(of_row, decoder.project(out), self._g))
        self._node.copy_(torch.where(has, tables.following[self._node, token].long(), self._node))
        self._active.copy_(has)
        return has, token, where, prob

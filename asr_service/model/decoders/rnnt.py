"""Decodes many streams at once with greedy RNN-T, the prediction network's state pooled by slot.

Label-looping (Bataev et al., arXiv 2406.06220): rows go on from label to label instead of from frame to frame. One
evaluation of the joint scores all frames of the chunk under the current prediction state; only rows that found a label
go round again, with their prediction network advanced. A chunk costs one round plus one per label of its most
talkative row.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.decoders.boosting_state import Boosts
from asr_service.model.decoders.boosting_tables import BoostTables
from asr_service.model.decoders.boosting_tree import BoostingTree
from asr_service.model.decoders.emissions import Emissions
from asr_service.model.decoders.heads import ACTIVATIONS, RnntWeights
from asr_service.model.decoders.rnnt_rounds import RnntRounds


def probability(scores: Tensor, chosen: Tensor) -> Tensor:
    """Returns the confidence of tokens: their softmax probability. `bench.confidence` compares it with entropies.

    Args:
        scores: of all tokens and the blank, [..., vocabulary + 1].
        chosen: scores of the emitted tokens, [...].

    Returns:
        [...], each in [0, 1].
    """
    return (chosen - scores.logsumexp(dim=-1)).exp()


class _Lstm:
    """Runs the prediction network's LSTM, one token at a time; the first layer's input product is a table by token."""

    def __init__(self, weights: RnntWeights) -> None:
        self.layers = len(weights.recurrent)
        self._recurrent, self._input, self._bias = weights.recurrent, weights.inputs, weights.biases
        self.table = functional.linear(weights.embedding, self._input[0], self._bias[0])

    def start(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the state after the start symbol, a zero vector: h and c [layers, hidden], output [hidden]."""
        zeros = torch.zeros(self.layers, 1, self._recurrent[0].shape[1], device=device)
        h, c, out = self._run(self._bias[0].unsqueeze(0), zeros, zeros)
        return h[:, 0], c[:, 0], out[0]

    def step(self, tokens: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Feeds tokens [B] to states h, c [layers, B, hidden]; returns h, c and the output [B, hidden]."""
        return self._run(self.table[tokens], h, c)

    def _run(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        new_h, new_c = [], []
        out = h[0]
        for layer in range(self.layers):
            if layer:
                gates = functional.linear(out, self._input[layer], self._bias[layer])
            gates = gates + functional.linear(h[layer], self._recurrent[layer])
            enter, forget, candidate, leave = gates.chunk(4, dim=-1)
            cell = forget.sigmoid() * c[layer] + enter.sigmoid() * candidate.tanh()
            out = leave.sigmoid() * cell.tanh()
            new_h.append(out)
            new_c.append(cell)
        return torch.stack(new_h), torch.stack(new_c), out


class RnntDecoder:
    """Decodes with greedy RNN-T; a slot's state is that of the prediction network.

    Args:
        weights: of the prediction network and the joint.
        max_symbols: most tokens that a frame may emit.
        slots: rows of pooled state.
        device: of the state and the arithmetic.

    Attributes:
        confidence: works out the confidence of tokens; `probability`, unless a benchmark sets another measure.
        h, c: state of the prediction network by slot, [layers, slots, hidden].
        g: its output, projected into the joint, [slots, joint].
        blank, max_symbols, weights, lstm, activation: as they were given, for `RnntRounds`.
    """

    name = "rnnt"

    def __init__(self, weights: RnntWeights, max_symbols: int, slots: int, device: torch.device) -> None:
        self.confidence = probability
        self.blank = len(weights.out.weight) - 1
        self.lstm = _Lstm(weights)
        self.weights = weights
        self.activation = ACTIVATIONS[weights.activation]
        self.max_symbols = max_symbols
        h, c, out = self.lstm.start(device)
        self._start = (h, c, self.project(out))
        self.h = h[:, None].repeat(1, slots, 1)
        self.c = c[:, None].repeat(1, slots, 1)
        self.g = self._start[2].repeat(slots, 1)
        self._boosts = Boosts(slots, self.blank, device)

    def step(self, slots: Tensor, encoded: Tensor, frames: Tensor) -> Emissions:
        """Decodes one chunk of each row.

        Args:
            slots: int64 [B].
            encoded: fp32 [B, chunk_frames, d_model].
            frames: real frames of each row, int64 [B]; the others are not decoded.
        """
        rows, device = len(slots), encoded.device
        rounds: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        enc, last = self.weights.enc, self.weights.out
        projected = functional.linear(encoded, enc.weight, enc.bias)
        # Of each row: the frame that it has come to, and the tokens that it has emitted there.
        at = torch.zeros(rows, dtype=torch.int64, device=device)
        count = torch.zeros(rows, dtype=torch.int64, device=device)
        frame = torch.arange(projected.shape[1], device=device)
        g = self.g[slots]
        h, c = self.h[:, slots], self.c[:, slots]
        boosted = self._boosts.boosted_rows(slots)
        # The rows that may still find a label, on the device and on the host.
        active = torch.arange(rows, device=device)
        active_rows: Sequence[int] = range(rows)
        while True:
            joined = self.activation(projected[active] + g[active].unsqueeze(1))
            logits = functional.linear(joined, last.weight, last.bias)
            label = logits.argmax(dim=-1)
            if boosted and (places := [place for place, row in enumerate(active_rows) if row in boosted]):
                self._boosts.relabel(logits, label, places, [boosted[active_rows[place]] for place in places])
            found = (label != self.blank) & (frame >= at[active, None]) & (frame < frames[active, None])
            index = torch.nonzero(found.any(dim=1)).squeeze(1)
            if not index.numel():
                break
            where = found[index].int().argmax(dim=1)
            active = active[index]
            token = label[index, where]
            scores = logits[index, where]
            prob = self.confidence(scores, scores.gather(1, token[:, None]).squeeze(1))
            repeated = torch.where(where == at[active], count[active] + 1, 1)
            full = repeated >= self.max_symbols
            at[active] = torch.where(full, where + 1, where)
            count[active] = torch.where(full, 0, repeated)
            new_h, new_c, out = self.lstm.step(token, h[:, active], c[:, active])
            h[:, active], c[:, active] = new_h, new_c
            g[active] = self.project(out)
            rounds.append((active, where, token, prob))
            if boosted:
                active_rows = active.tolist()
                self._boosts.advance(
                    (boosted[row], token)
                    for row, token in zip(active_rows, token.tolist(), strict=True)
                    if row in boosted
                )
        self.h[:, slots], self.c[:, slots], self.g[slots] = h, c, g
        return Emissions.of_rounds(rounds, device)

    def project(self, out: Tensor) -> Tensor:
        """Projects outputs of the prediction network [..., hidden] into the joint."""
        return functional.linear(out, self.weights.pred.weight, self.weights.pred.bias)

    def rounds(self, tables: BoostTables, rows: int, frames: int) -> RnntRounds:
        """Makes a decoder of fixed shapes for batches of so many rows; `use` has to have been told of the tables."""
        return RnntRounds(self, tables, rows, frames)

    def use(self, tables: BoostTables) -> None:
        """Has the slots whose trees there is room for in tables be boosted by `rounds` alone."""
        self._boosts.tables = tables

    @property
    def host_boosted(self) -> Set[int]:
        """The slots that `step` alone boosts."""
        return self._boosts.slots

    def boost(self, slot: int, tree: BoostingTree | None) -> None:
        """Sets the tree of the phrases that are boosted in a slot from its next step on; None for none."""
        self._boosts.set(slot, tree)

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], before their first token."""
        h, c, g = self._start
        self.h[:, slots] = h[:, None]
        self.c[:, slots] = c[:, None]
        self.g[slots] = g

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        own = 4 * (self.h[:, 0].numel() + self.c[:, 0].numel() + self.g[0].numel())
        return int(own) + self._boosts.state_bytes()

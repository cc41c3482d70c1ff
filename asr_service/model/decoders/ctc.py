"""Decodes many streams at once with greedy CTC: the best label of each frame, repeats merged across chunks."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.decoders.boosting_state import Boosts
from asr_service.model.decoders.boosting_tables import BoostTables
from asr_service.model.decoders.boosting_tree import BoostingTree
from asr_service.model.decoders.ctc_rounds import CtcRounds
from asr_service.model.decoders.emissions import Emissions
from asr_service.model.decoders.heads import CtcWeights
from asr_service.model.decoders.rnnt import probability


class CtcDecoder:
    """Decodes with greedy CTC; a slot's state is the label of its last frame.

    In a boosted row a run of frames with one best label is one token, which is chosen in its first frame: the one that
    is best with the bonuses. The slot's state is then two labels, the model's own and the chosen one.

    Args:
        head: of the model.
        slots: rows of pooled state.
        device: of the state and the arithmetic.

    Attributes:
        confidence: works out the confidence of tokens; `probability`, unless a benchmark sets another measure.
        last, chosen: the model's own label in each slot's last frame, and the chosen one, int64 [slots].
        blank, weight, bias: of the head.
    """

    name = "ctc"

    def __init__(self, head: CtcWeights, slots: int, device: torch.device) -> None:
        self.confidence = probability
        self.weight, self.bias = head.weight, head.bias
        self.blank = self.weight.shape[0] - 1
        self.last = torch.full((slots,), self.blank, dtype=torch.int64, device=device)
        self.chosen = self.last.clone()
        self._boosts = Boosts(slots, self.blank, device)

    def step(self, slots: Tensor, encoded: Tensor, frames: Tensor) -> Emissions:
        """Decodes one chunk of each row; arguments and result as in `RnntDecoder.step`."""
        logits = functional.linear(encoded, self.weight, self.bias)
        label = logits.argmax(dim=-1)
        first = self.last[slots]
        self.last[slots] = label[:, -1]
        if boosted := self._boosts.boosted_rows(slots):
            self._choose(logits, label, first, boosted)
        prob = self.confidence(logits, logits.gather(-1, label.unsqueeze(-1)).squeeze(-1))
        previous = torch.cat([first[:, None], label[:, :-1]], dim=1)
        real = torch.arange(label.shape[1], device=encoded.device) < frames[:, None]
        new = (label != previous) & (label != self.blank) & real
        row, frame = torch.nonzero(new, as_tuple=True)
        return Emissions(row, frame, label[row, frame], prob[row, frame])

    def _choose(self, logits: Tensor, label: Tensor, first: Tensor, boosted: dict[int, int]) -> None:
        """Puts the chosen labels of boosted rows into `label` [B, frames], and the one before them into `first` [B]."""
        rows, slots = list(boosted), list(boosted.values())
        row_index, slot_index = (torch.tensor(numbers, device=label.device) for numbers in (rows, slots))
        # Of the frame before: the model's own label, and the chosen one.
        own, chosen = first[row_index], self.chosen[slot_index]
        first[row_index] = chosen
        for frame in range(label.shape[1]):
            own_now = label[row_index, frame]
            goes_on = (own_now != self.blank) & ((own_now == own) | (own_now == chosen))
            boosted_label = label[:, frame : frame + 1].clone()
            self._boosts.relabel(logits[:, frame : frame + 1], boosted_label, rows, slots)
            chosen_now = torch.where(goes_on, chosen, boosted_label[row_index, 0])
            is_new = (chosen_now != chosen) & (chosen_now != self.blank)
            own, chosen = own_now, chosen_now
            label[row_index, frame] = chosen
            tokens = zip(slots, chosen.tolist(), is_new.tolist(), strict=True)
            self._boosts.advance((slot, token) for slot, token, new in tokens if new)
        self.chosen[slot_index] = chosen

    def rounds(self, tables: BoostTables, rows: int, frames: int) -> CtcRounds:
        """Makes a decoder of fixed shapes for batches of so many rows; `use` has to have been told of the tables."""
        return CtcRounds(self, tables, rows, frames)

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
        """Puts the given slots, int64 [n], before their first frame."""
        self.last.index_fill_(0, slots, self.blank)
        self.chosen.index_fill_(0, slots, self.blank)

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        return 2 * self.last.element_size() + self._boosts.state_bytes()

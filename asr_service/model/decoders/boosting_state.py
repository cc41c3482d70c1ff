"""Keeps the boosting state of a decoder's slots: their trees, their places in them, the bonuses of their next tokens.

The rule is that of NeMo's label-looping decoder with a boosting tree: the model alone decides whether a frame has a
token, a bonus only changes which one. So silence stays silence whatever is boosted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

import numpy as np
import torch
from torch import Tensor

from asr_service.model.decoders.boosting_tables import BoostTables
from asr_service.model.decoders.boosting_tree import BoostingTree


class Boosts:
    """Applies the bonuses of boosted phrases in a decoder, slot by slot.

    Args:
        slots: rows of pooled state.
        vocabulary: token ids without the blank, which is the id after them.
        device: of the pool.

    Attributes:
        tables: where trees go first, if there are any; a slot whose tree is there is not boosted here.
    """

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        self._device = device
        self._vocabulary = vocabulary
        self.tables: BoostTables | None = None
        self._trees: dict[int, BoostingTree] = {}
        self._nodes: dict[int, int] = {}
        # Bonuses of the tokens of each slot: at its tree's root, and where it is in the tree now.
        self._root = torch.zeros(slots, vocabulary, device=device)
        self._bonus = torch.zeros(slots, vocabulary, device=device)

    def set(self, slot: int, tree: BoostingTree | None) -> None:
        """Puts a slot at the root of a tree, from which on its phrases are boosted; None boosts nothing."""
        self._trees.pop(slot, None)
        self._nodes.pop(slot, None)
        if self.tables is not None and self.tables.set(slot, tree):
            return
        if tree is not None:
            # First, since there may be no memory for it: then the slot is not boosted.
            self._root[slot] = self._bonus[slot] = torch.from_numpy(tree.root).to(self._device)
            self._trees[slot] = tree
            self._nodes[slot] = 0

    @property
    def slots(self) -> Set[int]:
        """The slots that are boosted here."""
        return self._trees.keys()

    def boosted_rows(self, slots: Tensor) -> dict[int, int]:
        """Returns the slot of each row of a batch that is boosted; `slots` is int64 [B]."""
        if not self._trees:
            return {}
        return {row: slot for row, slot in enumerate(slots.tolist()) if slot in self._trees}

    def relabel(self, logits: Tensor, label: Tensor, at: Sequence[int], slots: Sequence[int]) -> None:
        """Chooses the tokens of boosted rows anew, in place; blanks stay.

        Args:
            logits: [A, frames, vocabulary + 1].
            label: the best of them, int64 [A, frames].
            at: boosted rows of these tensors.
            slots: their slots.
        """
        index = torch.tensor(at, device=self._device)
        bonus = self._bonus[torch.tensor(slots, device=self._device)]
        unboosted = label[index]
        boosted = (logits[index, :, : self._vocabulary] + bonus.unsqueeze(1)).argmax(dim=-1)
        label[index] = torch.where(unboosted == self._vocabulary, unboosted, boosted)

    def advance(self, emitted: Iterable[tuple[int, int]]) -> None:
        """Moves boosted slots on in their trees.

        Args:
            emitted: (slot, token) of the tokens that they emitted, each slot at most once.
        """
        moved_slots: list[int] = []
        bonus_slots: list[int] = []
        bonus_tokens: list[np.ndarray] = []
        bonus_values: list[np.ndarray] = []
        for slot, token in emitted:
            tree, node = self._trees[slot], self._nodes[slot]
            next_node = tree.advance(node, token)
            if next_node == node:
                continue
            self._nodes[slot] = next_node
            moved_slots.append(slot)
            if next_node:
                tokens, values = tree.bonuses(next_node)
                bonus_slots += [slot] * len(tokens)
                bonus_tokens.append(tokens)
                bonus_values.append(values)
        if not moved_slots:
            return
        index = torch.tensor(moved_slots, device=self._device)
        self._bonus[index] = self._root[index]
        if bonus_slots:
            places = np.stack([np.asarray(bonus_slots), np.concatenate(bonus_tokens)])
            slot_index, token_index = torch.from_numpy(places).to(self._device)
            self._bonus[slot_index, token_index] = torch.from_numpy(np.concatenate(bonus_values)).to(
                self._device
            )

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        return 2 * self._root.element_size() * self._vocabulary

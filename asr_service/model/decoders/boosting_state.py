"""Boosted phrases beside a decoder: which slots have some, where in their trees they are, and what that changes.

The rule is that of NeMo's label-looping decoder with a boosting tree: whether a frame has a token is the model's own
decision, a bonus only changes which. What follows of it: silence stays silence whatever is boosted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from asr_service.model.decoders.boosting_tree import BoostingTree


class Boosts:
    """The trees of a decoder's slots, and the bonuses of their next tokens as rows of a pool.

    Args:
        slots: rows of pooled state.
        vocabulary: token ids without the blank, which is the id after them.
        device: of the pool.
    """

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        self._device = device
        self._vocabulary = vocabulary
        self._trees: dict[int, BoostingTree] = {}
        self._nodes: dict[int, int] = {}
        self._root = torch.zeros(slots, vocabulary, device=device)
        self._bonus = torch.zeros(slots, vocabulary, device=device)

    def set(self, slot: int, tree: BoostingTree | None) -> None:
        """Puts a slot at the root of a tree; None: nothing is boosted."""
        self._trees.pop(slot, None)
        self._nodes.pop(slot, None)
        if tree is not None:
            self._trees[slot] = tree
            self._nodes[slot] = 0
            self._root[slot] = self._bonus[slot] = torch.from_numpy(tree.root).to(self._device)

    def rows(self, slots: Tensor) -> dict[int, int]:
        """Which rows of a batch are boosted, with their slots; `slots` is int64 [B]."""
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
        raw = label[index]
        chosen = (logits[index, :, : self._vocabulary] + bonus.unsqueeze(1)).argmax(dim=-1)
        label[index] = torch.where(raw == self._vocabulary, raw, chosen)

    def advance(self, said: Iterable[tuple[int, int]]) -> None:
        """Notes the tokens that boosted slots emitted: slot and token, each slot at most once."""
        moved: list[int] = []
        owners: list[int] = []
        ids: list[np.ndarray] = []
        bonuses: list[np.ndarray] = []
        for slot, token in said:
            tree, node = self._trees[slot], self._nodes[slot]
            after = tree.advance(node, token)
            if after == node:
                continue
            self._nodes[slot] = after
            moved.append(slot)
            if after:
                found, values = tree.entries(after)
                owners += [slot] * len(found)
                ids.append(found)
                bonuses.append(values)
        if not moved:
            return
        index = torch.tensor(moved, device=self._device)
        self._bonus[index] = self._root[index]
        if owners:
            where = torch.from_numpy(np.stack([np.asarray(owners), np.concatenate(ids)])).to(self._device)
            self._bonus[where[0], where[1]] = torch.from_numpy(np.concatenate(bonuses)).to(self._device)

    def state_bytes(self) -> int:
        """Bytes of state per slot."""
        return 2 * self._root.element_size() * self._vocabulary

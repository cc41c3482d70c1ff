"""Keeps boosting trees as tables on a device, so that decoding moves on in them without the host.

A tree is rows of two tables, one row for each node: which row each next token leads to, and the bonus of each next
token. Row 0 boosts nothing and leads nowhere else; a slot without phrases is there. The tables are of a fixed size:
where there is no room, `boosting_state.Boosts` has the tree, and the host decodes its slots.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr_service.model.decoders.boosting_tree import BoostingTree, Level

BYTES = 2**27
"""Of both tables together: with 1,024 tokens these are 16,384 nodes, such as those of 40 lists of 100 phrases."""


@dataclass(slots=True)
class _Place:
    """Rows of a tree: the first one, and how many slots use it."""

    first: int
    users: int = 0


class BoostTables:
    """Places trees in tables, and says at which row each slot is.

    Args:
        slots: rows of pooled state.
        vocabulary: token ids without the blank.
        device: of the tables.
        rows: of the tables; as many as fit into `BYTES` unless told otherwise.

    Attributes:
        following: row that each token leads to, int32 [rows, vocabulary].
        bonus: of each token, float32 [rows, vocabulary].
        at: row of each slot, int64 [slots].
    """

    def __init__(self, slots: int, vocabulary: int, device: torch.device, rows: int | None = None) -> None:
        rows = rows or max(2, BYTES // (8 * vocabulary))
        self.following = torch.zeros(rows, vocabulary, dtype=torch.int32, device=device)
        self.bonus = torch.zeros(rows, vocabulary, device=device)
        self.at = torch.zeros(slots, dtype=torch.int64, device=device)
        self._vocabulary = vocabulary
        # Those that were used last come last; ones without users stay as long as nobody needs their rows.
        self._places: OrderedDict[BoostingTree, _Place] = OrderedDict()
        self._trees: dict[int, BoostingTree] = {}

    def set(self, slot: int, tree: BoostingTree | None) -> bool:
        """Puts a slot at the root of a tree, or where nothing is boosted; returns whether there was room for the tree.

        Without room nothing is boosted in the slot.
        """
        if (before := self._trees.pop(slot, None)) is not None:
            self._places[before].users -= 1
            # Before the other tree is placed, for which there may be no memory: its rows may soon be another's.
            self.at[slot].fill_(0)
        if tree is None:
            return True
        place = self._place(tree)
        if place is None:
            return False
        place.users += 1
        self._trees[slot] = tree
        self.at[slot].fill_(place.first)
        return True

    def _place(self, tree: BoostingTree) -> _Place | None:
        """Finds the rows of a tree, or makes them; None without room."""
        place = self._places.get(tree)
        if place is None:
            first = self._room(len(tree))
            if first is None:
                return None
            self._write(tree.levels(), first)
            place = self._places[tree] = _Place(first)
        self._places.move_to_end(tree)
        return place

    def _write(self, levels: Sequence[Level], first: int) -> None:
        """Writes the rows of a tree, the root's being `first`.

        The device does it: a row is that of the node's failure, which is nearer to the root, with the node's own edges.
        Only the edges come from the host, which waits for nothing.
        """
        self.following[first].fill_(first)
        self.bonus[first].zero_()
        parts = []
        for level in levels:
            nodes, failure, parents = (part + first for part in (level.nodes, level.failure, level.parents))
            parts += [nodes, failure, parents, level.tokens, level.children + first]
        sent = self._send(parts)
        bonuses = self._send([level.bonuses for level in levels])
        for depth, bonus in enumerate(bonuses):
            at, failed, parent, token, child = sent[5 * depth : 5 * depth + 5]
            if depth:
                self.following[at] = self.following[failed]
                self.bonus[at] = self.bonus[failed]
            self.following[parent, token] = child.int()
            self.bonus[parent, token] = torch.maximum(self.bonus[parent, token], bonus)

    def _send(self, arrays: Sequence[npt.NDArray[Any]]) -> tuple[Tensor, ...]:
        """Brings arrays of one axis and one type to the device in one copy."""
        tensor, device = torch.from_numpy(np.concatenate(arrays)), self.following.device
        if device.type == "cuda":
            # Pinned: otherwise the host would wait until the device has done what it was given before.
            tensor = tensor.pin_memory().to(device, non_blocking=True)
        return torch.split(tensor, [len(array) for array in arrays])

    def _room(self, count: int) -> int | None:
        """Finds the first of so many rows that are free, after dropping trees that nobody uses as far as need be."""
        if count >= len(self.bonus):
            return None
        while (first := self._gap(count)) is None:
            unused = next((tree for tree, place in self._places.items() if not place.users), None)
            if unused is None:
                return None
            del self._places[unused]
        return first

    def _gap(self, count: int) -> int | None:
        taken = sorted((place.first, place.first + len(tree)) for tree, place in self._places.items())
        free = 1
        for first, end in (*taken, (len(self.bonus), 0)):
            if first - free >= count:
                return free
            free = end
        return None

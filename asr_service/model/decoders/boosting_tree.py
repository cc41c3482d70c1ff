"""Builds trees of phrases, which give the bonus of each next token after the tokens so far. No torch here.

The tree is the automaton of Aho and Corasick ("Efficient string matching", CACM 18(6), 1975) over token ids, as in
icefall's context graph (k2-fsa/icefall, icefall/context_graph.py) and NeMo's boosting tree
(nemo/collections/asr/parts/context_biasing/boosting_graph_batched.py; Andrusenko et al., arXiv 2508.07014): a node
stands for the longest end of the tokens so far that begins a phrase. A token that goes on with a phrase gets that
phrase's bonus. Those two also take a bonus back when a phrase is left before its end, for searches that compare
hypotheses. Greedy decoding compares none, so nothing is taken back here.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from asr_service.core.values import PhraseBoost
from asr_service.recognition.phrases import Alphabet

_log = logging.getLogger(__name__)

FIRST_TOKEN = 1.0
LATER_TOKEN = 2.0
"""Factors of a phrase's boost for its first token and for those after it. Once a phrase has begun, its next token is
more likely meant than at any other place: NeMo's default (`depth_scaling`) is 2 as well."""

_KEPT_TREES = 64

Int64 = npt.NDArray[np.int64]
Bonuses = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Token ids [n] and their bonuses [n]."""


@dataclass(frozen=True, slots=True)
class Level:
    """The nodes of a tree that are equally far from its root, and the edges that lead on from them.

    Attributes:
        nodes: int64 [n].
        failure: of each node that of its longest proper end that begins a phrase, int64 [n]; it is nearer to the root.
        parents, tokens, children: of each edge, int64 [m].
        bonuses: of each edge's token, float32 [m].
    """

    nodes: Int64
    failure: Int64
    parents: Int64
    tokens: Int64
    children: Int64
    bonuses: npt.NDArray[np.float32]


class BoostingTree:
    """Gives the bonus of a next token: the largest that any phrase gives to it after the tokens so far, 0 without one.

    A phrase gives a bonus if the tokens so far end with a beginning of it, which may be empty, and the token goes on
    with it. A tree does not change for its users, so that streams may share one.

    Args:
        phrases: token ids and boost of each phrase; ones without tokens count for nothing.
        vocabulary: token ids there are.

    Attributes:
        root: bonus of every token where no phrase has begun, float32 [vocabulary].
    """

    def __init__(self, phrases: Iterable[tuple[Sequence[int], float]], vocabulary: int) -> None:
        # By node: the next node for each token, and the bonus of the token that leads to the node.
        self._next: list[dict[int, int]] = [{}]
        self._bonus: list[float] = [0.0]
        for tokens, boost in phrases:
            node = 0
            for depth, token in enumerate(tokens):
                child = self._next[node].setdefault(token, len(self._next))
                if child == len(self._next):
                    self._next.append({})
                    self._bonus.append(0.0)
                self._bonus[child] = max(self._bonus[child], boost * (LATER_TOKEN if depth else FIRST_TOKEN))
                node = child
        self._failure = self._failure_links()
        self._made_bonuses: dict[int, Bonuses] = {}
        self.root = np.zeros(vocabulary, dtype=np.float32)
        for token, child in self._next[0].items():
            self.root[token] = self._bonus[child]

    def __len__(self) -> int:
        """Returns the number of nodes; 1 if there is no phrase."""
        return len(self._next)

    def advance(self, node: int, token: int) -> int:
        """Returns the node that a token leads to; node 0 is the root, where every stream starts."""
        while (next_node := self._next[node].get(token)) is None:
            if not node:
                return 0
            node = self._failure[node]
        return next_node

    def bonuses(self, node: int) -> Bonuses:
        """Returns the bonuses at a node that may differ from those at the root; made when the node is first reached."""
        made = self._made_bonuses.get(node)
        if made is None:
            largest: dict[int, float] = {}
            at = node
            while at:
                for token, child in self._next[at].items():
                    largest[token] = max(largest.get(token, float(self.root[token])), self._bonus[child])
                at = self._failure[at]
            made = self._made_bonuses[node] = (
                np.fromiter(largest.keys(), np.int64, len(largest)),
                np.fromiter(largest.values(), np.float32, len(largest)),
            )
        return made

    def levels(self) -> list[Level]:
        """Returns the tree level by level, from the root on: what `BoostTables` makes its rows of."""
        found, nodes = [], [0]
        while nodes:
            edges = [(node, token, child) for node in nodes for token, child in self._next[node].items()]
            parents, tokens, children = np.array(edges, np.int64).reshape(-1, 3).T
            failure = np.array([self._failure[node] for node in nodes], np.int64)
            bonuses = np.array([self._bonus[child] for _, _, child in edges], np.float32)
            found.append(Level(np.array(nodes, np.int64), failure, parents, tokens, children, bonuses))
            nodes = [child for _, _, child in edges]
        return found

    def _failure_links(self) -> list[int]:
        """Finds, breadth first, for each node that of its longest proper end that begins a phrase."""
        failure = [0] * len(self._next)
        queue = deque(self._next[0].values())
        while queue:
            node = queue.popleft()
            for token, child in self._next[node].items():
                at = failure[node]
                while at and token not in self._next[at]:
                    at = failure[at]
                failure[child] = self._next[at].get(token, 0)
                queue.append(child)
        return failure


class TreeMaker:
    """Makes trees of phrases; streams with the same phrases share one.

    Args:
        encode: returns the token ids of a text, as the model's tokenizer does.
        alphabet: of the model.
        vocabulary: token ids there are.
        unknown: id of the unknown token, None if there is none.
    """

    def __init__(
        self, encode: Callable[[str], Sequence[int]], alphabet: Alphabet, vocabulary: int, unknown: int | None
    ) -> None:
        self._encode = encode
        self._alphabet = alphabet
        self._vocabulary = vocabulary
        self._unknown = unknown
        self._kept: OrderedDict[tuple[PhraseBoost, ...], BoostingTree] = OrderedDict()

    def tree(self, groups: tuple[PhraseBoost, ...]) -> BoostingTree | None:
        """Returns the tree of these phrases, made or kept from before; None if nothing is boosted."""
        if not groups:
            return None
        tree = self._kept.get(groups)
        if tree is None:
            tree = self._kept[groups] = BoostingTree(self._tokens(groups), self._vocabulary)
            if len(self._kept) > _KEPT_TREES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(groups)
        return tree if len(tree) > 1 else None

    def _tokens(self, groups: tuple[PhraseBoost, ...]) -> list[tuple[Sequence[int], float]]:
        """Returns token ids and boost of each phrase, without those that are not boosted."""
        phrases, left_out = [], 0
        for group in groups:
            for phrase in group.phrases:
                tokens = self._encode(self._alphabet.spell(phrase).text)
                if group.boost <= 0:
                    continue
                if self._unknown in tokens:
                    left_out += 1
                    continue
                phrases.append((tokens, group.boost))
        if left_out:
            _log.warning("%d phrases are not boosted: the tokenizer has no pieces for them", left_out)
        return phrases

"""Word error counts. Pure Python: the service's scorer uses it too, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Errors:
    """Counts over some utterances; `tail` are the deletions with no matched word after them."""

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    tail: int = 0
    utterances: int = 0
    exact: int = 0

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.tail + other.tail,
            self.utterances + other.utterances,
            self.exact + other.exact,
        )

    @property
    def wer(self) -> float:
        """Errors in percent of the reference's words (of one word where the reference is empty)."""
        return 100.0 * (self.substitutions + self.deletions + self.insertions) / max(1, self.words)

    def as_dict(self) -> dict[str, float | int]:
        """Return the counts and the rate for a JSON report."""
        return {
            "wer": round(self.wer, 2),
            "words": self.words,
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "tail_deletions": self.tail,
            "utterances": self.utterances,
            "exact": self.exact,
        }


def align(reference: Sequence[str], heard: Sequence[str]) -> str:
    """Return the cheapest alignment as operations: `=` match, `s` substitute, `d` delete, `i` insert."""
    rows, columns = len(reference), len(heard)
    cost = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows + 1):
        cost[i][0] = i
    for j in range(columns + 1):
        cost[0][j] = j
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            change = cost[i - 1][j - 1] + (reference[i - 1] != heard[j - 1])
            cost[i][j] = min(change, cost[i - 1][j] + 1, cost[i][j - 1] + 1)
    i, j = rows, columns
    operations: list[str] = []
    while i or j:
        same = bool(i and j) and reference[i - 1] == heard[j - 1]
        if i and j and cost[i][j] == cost[i - 1][j - 1] + (not same):
            operations.append("=" if same else "s")
            i, j = i - 1, j - 1
        elif i and cost[i][j] == cost[i - 1][j] + 1:
            operations.append("d")
            i -= 1
        else:
            operations.append("i")
            j -= 1
    return "".join(reversed(operations))


def compare(reference: str, heard: str) -> Errors:
    """Count the word errors of one utterance."""
    operations = align(reference.split(), heard.split())
    tail = len(operations) - len(operations.rstrip("d"))
    return Errors(
        len(reference.split()),
        operations.count("s"),
        operations.count("d"),
        operations.count("i"),
        tail,
        1,
        int(set(operations) <= {"="}),
    )


def total(errors: Iterable[Errors]) -> Errors:
    """Add up the counts."""
    return sum(errors, Errors())

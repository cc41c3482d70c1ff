"""Decoding of batches of one size by operations of fixed shapes, so that a device may replay them.

`begin` takes a step's frames; each call of `run` does a few rounds for all rows, of which those that have nothing more
to say stay as they are, and leaves in `out` what was emitted. While `out` says that a row may have more, `run` is to be
called again. Nothing here asks for what is in a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOES_ON, _FINITE, HEAD = 0, 1, 2
"""Rows of `out` before those of the rounds, of which there are `HEAD`: whether a row goes on, whether it is finite."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a step's rounds emitted, on the host; rows in order, and tokens of a row in the order in which they came.

    Attributes:
        finite: whether each row's numbers are, bool [B].
        rows, frames, tokens: of each token, int64 [M].
        probs: float32 [M].
    """

    finite: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    probs: npt.NDArray[np.float32]


class Rounds(Protocol):
    """A decoder for batches of one size.

    Attributes:
        out: int32 [2 + 3 rounds, B]: whether rows go on, whether they are finite, then token (-1 for none), frame and
            probability, as bits, of each round.
        skipped: rows that are not decoded and whose state stays, bool [B].
    """

    out: Tensor
    skipped: Tensor

    def begin(self, slots: Tensor, encoded: Tensor, frames: Tensor, finite: Tensor) -> None:
        """Takes a step.

        Args:
            slots: int64 [B].
            encoded: fp32 [B, chunk_frames, d_model].
            frames: real frames of each row, int64 [B]; the others are not decoded.
            finite: whether each row's numbers are, bool [B]; told in `out`.
        """
        ...

    def run(self) -> None:
        """Does a few rounds."""
        ...


def goes_on(out: npt.NDArray[np.int32], count: int) -> bool:
    """Tells whether any of the first `count` rows may have more to say."""
    return bool(out[_GOES_ON, :count].any())


def decoded(outs: Sequence[npt.NDArray[np.int32]], count: int) -> Decoded:
    """Reads what was left in `out` by one or more runs; of the first `count` rows."""
    # By row, round, and what is told of it.
    told = np.concatenate([out[HEAD:, :count] for out in outs]).T.reshape(count, -1, 3)
    rows, rounds = (told[:, :, 0] >= 0).nonzero()
    tokens, frames, probs = np.ascontiguousarray(told[rows, rounds].T)
    finite: npt.NDArray[Any] = outs[-1][_FINITE, :count] != 0
    return Decoded(finite, rows, frames.astype(np.int64), tokens.astype(np.int64), probs.view(np.float32))


def new_out(rounds: int, rows: int, device: torch.device) -> Tensor:
    """Makes an `out` for so many rounds of so many rows."""
    return torch.zeros(HEAD + 3 * rounds, rows, dtype=torch.int32, device=device)


def write_out(
    out: Tensor, goes_on: Tensor, finite: Tensor, emitted: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]
) -> None:
    """Writes `out`.

    Args:
        out: to be written.
        goes_on, finite: bool [B].
        emitted: of each round: whether rows emitted a token, bool [B], the token, its frame, and its probability, fp32.
    """
    told = [goes_on.int(), finite.int()]
    for has, token, frame, prob in emitted:
        told += [torch.where(has, token, -1).int(), frame.int(), prob.float().view(torch.int32)]
    torch.stack(told, out=out)

"""The tokens that a decoder makes of a step, as tensors on its device, and their way to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr_service.core.step import StepAnswers, no_answers
from asr_service.model.transfers import download


@dataclass(frozen=True, slots=True, eq=False)
class Emissions:
    """Tokens of a step, one entry each: those of a row in the order in which they came, rows in any order.

    Attributes:
        rows: of the batch, int64 [M].
        frames: within the chunk, int64 [M].
        tokens: their ids, int64 [M].
        probs: their confidence, fp32 [M].
    """

    rows: Tensor
    frames: Tensor
    tokens: Tensor
    probs: Tensor

    @staticmethod
    def of_rounds(rounds: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], device: torch.device) -> Emissions:
        """Joins what rounds of a decoder emitted: rows, frames, tokens, confidence of each."""
        if not rounds:
            none = torch.zeros(0, dtype=torch.int64, device=device)
            return Emissions(none, none, none, none.float())
        return Emissions(*(torch.cat(parts) for parts in zip(*rounds, strict=True)))


def answers_of(emissions: Emissions, finite: Tensor, frames: npt.NDArray[np.int32]) -> StepAnswers:
    """Waits for a step's emissions and makes its answers of them.

    Args:
        emissions: of the decoder; rows that are not finite have none.
        finite: whether each row's numbers are, bool [B]; rows after the chunks pad the batch.
        frames: real frames of each of N chunks, int32 [N].
    """
    rows, at, tokens, probs, is_finite = download(
        emissions.rows, emissions.frames, emissions.tokens, emissions.probs, finite
    )
    return answers_from(rows, at, tokens, probs, is_finite, frames)


def answers_from(
    rows: npt.NDArray[np.int64],
    at: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int64],
    probs: npt.NDArray[np.float32],
    is_finite: npt.NDArray[np.bool_],
    frames: npt.NDArray[np.int32],
) -> StepAnswers:
    """Makes a step's answers of what `Emissions` holds, on the host; arguments as in `answers_of`."""
    count = len(frames)
    broken = ~is_finite[:count]
    if broken.any():
        frames = np.where(broken, np.int32(0), frames)
    if not len(rows):
        none = no_answers(count)
        return StepAnswers(frames, none.counts, broken, none.tokens, none.token_frames, none.probs)
    order = rows.argsort(kind="stable")
    return StepAnswers(
        frames=frames,
        counts=np.bincount(rows, minlength=count).astype(np.int32),
        broken=broken,
        tokens=tokens[order].astype(np.int32),
        token_frames=at[order].astype(np.int32),
        # A probability that was worked out in fp32 may be above 1 by its last bit.
        probs=np.minimum(probs[order], np.float32(1.0)),
    )

"""Sends what a step has answered to the front ends whose slots were in it: one frame to each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from asr_service.core.step import StepAnswers
from asr_service.engine.engine_links import EngineLinks
from asr_service.engine.frames import FrameKind, Records, pack_header, pack_rows, pack_tokens
from asr_service.engine.slot_scheduler import Indices

# As a plain number: operations on an enum's members take long.
_ANSWERS = int(FrameKind.ANSWERS)
Leases = npt.NDArray[np.uint32]


def send_answers(
    to: EngineLinks,
    links: Indices,
    slots: Indices,
    leases: Leases,
    answers: StepAnswers,
    started: float,
    ended: float,
) -> None:
    """Sends the answers of a step.

    Args:
        to: the links.
        links: of the chunks, in ascending order.
        slots, leases: of the chunks.
        answers: to the chunks.
        started, ended: monotonic times of the step.
    """
    rows, tokens = pack_rows(slots, leases, answers), pack_tokens(answers)
    before = np.concatenate(([0], np.cumsum(answers.counts)))
    for link, start, end in _runs(links):
        mine = tokens[before[start] : before[end]]
        header = pack_header(_ANSWERS, end - start, len(mine), started=started, ended=ended)
        to.send(link, header, _bytes(rows[start:end]), _bytes(mine))


def send_failure(to: EngineLinks, links: Indices, slots: Indices, leases: Leases, failure: str) -> None:
    """Says that a step has failed, with the id that the log has too; arguments as of `send_answers`."""
    rows = pack_rows(slots, leases, None)
    for link, start, end in _runs(links):
        header = pack_header(_ANSWERS, end - start, failure=failure)
        to.send(link, header, _bytes(rows[start:end]))


def _runs(links: Indices) -> list[tuple[int, int, int]]:
    """Returns (link, first chunk, chunk after the last) of each link."""
    starts = [0, *(np.flatnonzero(np.diff(links)) + 1).tolist(), len(links)]
    return [(int(links[start]), start, end) for start, end in pairwise(starts)]


def _bytes(records: Records) -> memoryview:
    return records.data.cast("B") if len(records) else memoryview(b"")

"""Frames that an engine writes are read as they were meant, however they are split on their way."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.step import StepAnswers
from asr_service.engine.frames import (
    Frame,
    FrameKind,
    RowFlags,
    pack_header,
    pack_invalid,
    pack_rows,
    pack_tokens,
    read_frames,
)


def answers() -> StepAnswers:
    """Two chunks with tokens, one without and one that is broken."""
    return StepAnswers(
        frames=np.array([2, 2, 1, 0], np.int32),
        counts=np.array([1, 0, 2, 0], np.int32),
        broken=np.array([False, False, False, True]),
        tokens=np.array([5, 7, 9], np.int32),
        token_frames=np.array([1, 0, 0], np.int32),
        probs=np.array([0.5, 0.25, 1.0], np.float32),
    )


def written() -> bytes:
    """What an engine writes of a step, a failure, a lease and two refusals."""
    made = answers()
    slots, leases = np.array([3, 1, 8, 2]), np.array([1, 5, 1, 3], np.uint32)
    rows, tokens = pack_rows(slots, leases, made), pack_tokens(made)
    return b"".join(
        [
            pack_header(FrameKind.ANSWERS, 4, 3, started=1.0, ended=1.5) + rows.tobytes() + tokens.tobytes(),
            pack_header(FrameKind.ANSWERS, 4, failure="0123456789ab")
            + pack_rows(slots, leases, None).tobytes(),
            pack_header(FrameKind.LEASED, 1, request=7) + pack_rows(slots[:1], leases[:1], None).tobytes(),
            pack_header(FrameKind.OVERLOADED, 0, request=8, started=1.25),
            pack_invalid(9, "boosts\nétwas ist falsch"),
        ]
    )


@given(st.lists(st.integers(1, 40), max_size=40))
def test_they_are_read_whole_in_pieces_of_any_size(sizes: list[int]) -> None:
    data, read, buffer = written(), list[Frame](), bytearray()
    whole = list(read_frames(bytearray(data)))
    for size in [*sizes, len(data)]:
        buffer += data[:size]
        data = data[size:]
        read += read_frames(buffer)
    assert read == whole
    assert not buffer


def test_a_step_s_rows_and_tokens_come_as_they_were_made() -> None:
    step, failed, leased, overloaded, invalid = read_frames(bytearray(written()))
    assert (step.started, step.ended, step.failure) == (1.0, 1.5, "")
    assert step.rows == [(3, 1, 2, 1, 0), (1, 5, 2, 0, 0), (8, 1, 1, 2, 0), (2, 3, 0, 0, RowFlags.BROKEN)]
    assert (step.tokens, step.token_frames, step.probs) == ([5, 7, 9], [1, 0, 0], [0.5, 0.25, 1.0])
    assert failed.failure == "0123456789ab"
    assert {row[4] for row in failed.rows} == {RowFlags.FAILED}
    assert (leased.request, leased.rows[0][:2]) == (7, (3, 1))
    assert (overloaded.request, overloaded.started) == (8, 1.25)
    assert (invalid.request, invalid.text) == (9, "boosts\nétwas ist falsch")

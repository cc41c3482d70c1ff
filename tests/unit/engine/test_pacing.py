"""Pauses between turns: short ones for commands, longer ones while a batch gathers, none with a tick of 0."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_service.engine.pacing import Pace

waits = st.none() | st.floats(0, 10)


@given(st.floats(0, 0.1), waits, st.floats(0, 10), st.floats(0, 0.02))
def test_nothing_is_slept_over(tick_s: float, due_s: float | None, quiet_s: float, since_turn: float) -> None:
    pace = Pace(tick_s)
    pace.turn_begins(100.0)
    now = 100.0 + since_turn
    pause_s, until = pace.wait(now, due_s, quiet_s)
    assert pause_s <= max(0.002, min(quiet_s, 0.02)) + 1e-9
    assert now + pause_s <= until + 1e-9
    assert until <= now + min(1.0, 1.0 if due_s is None else due_s)


def test_where_no_step_can_be_due_it_sleeps() -> None:
    pace = Pace(0.02)
    pace.turn_begins(0.0)
    assert pace.wait(0.0, 0.015, 1.0)[0] == 0.015
    assert pace.wait(0.0, None, 1.0)[0] == 0.02, "somebody may ask for a slot"
    assert pace.wait(0.0, 0.015, 0.01)[0] == 0.01
    assert pace.wait(0.0, 0.02)[0] == 0.002
    assert pace.wait(0.01, 0.02)[0] <= 0, "the turn was long ago"


def test_without_a_tick_a_command_is_executed_at_once() -> None:
    pace = Pace(0.0)
    pace.turn_begins(0.0)
    assert pace.wait(0.0, None) == (0.0, 1.0)

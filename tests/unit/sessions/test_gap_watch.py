"""What counts as a gap in a stream's audio, on a clock that the test moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asr_service.sessions.gap_watch import LEAD_S, GapWatch

AFTER_S = 1.0
LOOK_S = 0.25


class Clocked:
    """A watch that is looked at each quarter of a second, and that puts in what is missing."""

    def __init__(self, after_s: float = AFTER_S, start: float = 1_000.0) -> None:
        self.watch = GapWatch(after_s)
        self.now = start
        self.received_s = 0.0
        self.filled_s = 0.0

    def pass_s(self, seconds: float, *, rate: float = 0.0, blind: bool = False) -> None:
        """Time passes; so much audio comes in each second of it."""
        for _ in range(round(seconds / LOOK_S)):
            self.now += LOOK_S
            self.received_s += LOOK_S * rate
            missing_s = self.watch.look(self.received_s, self.now, blind=blind)
            self.watch.fill(missing_s)
            self.filled_s += missing_s

    def burst(self, seconds: float) -> None:
        """Audio comes at once."""
        self.received_s += seconds
        self.pass_s(LOOK_S)


def test_a_muted_microphone_is_silence_from_its_beginning_on() -> None:
    live = Clocked()
    live.pass_s(5, rate=1)
    live.pass_s(0.75)
    assert live.filled_s == 0
    live.pass_s(0.25)
    assert live.filled_s == AFTER_S
    live.pass_s(9)
    assert live.filled_s == 10
    live.pass_s(5, rate=1)
    assert live.received_s + live.filled_s == live.now - 1_000


@given(st.lists(st.floats(0, 0.9), max_size=40), st.floats(0.98, 1.02))
def test_pauses_that_are_shorter_are_no_gaps_however_many(pauses_s: list[float], rate: float) -> None:
    """Jitter and a clock that is a little off, for as long as one likes."""
    live = Clocked()
    for pause_s in pauses_s:
        live.pass_s(60, rate=rate)
        live.pass_s(pause_s - pause_s % LOOK_S)
    assert live.filled_s == 0


def test_a_slow_clock_is_not_caught_up_with_in_a_gap() -> None:
    live = Clocked()
    live.pass_s(1_000, rate=0.99)
    live.pass_s(4)
    assert abs(live.filled_s - 4) < 0.01


def test_an_upload_that_is_ahead_of_real_time_may_pause() -> None:
    upload = Clocked()
    upload.pass_s(1, rate=20)
    upload.pass_s(10)
    assert upload.filled_s == 0


def test_what_was_kept_while_connecting_counts_as_live() -> None:
    live = Clocked()
    live.burst(LEAD_S)
    live.pass_s(5, rate=1)
    live.pass_s(3)
    assert live.filled_s == 3


def test_a_recorder_of_long_packets_has_no_gaps_between_them() -> None:
    recorder = Clocked()
    for _ in range(10):
        recorder.burst(10)
        recorder.pass_s(9.75)
    assert recorder.filled_s == 0


def test_time_in_which_nobody_could_look_is_no_gap() -> None:
    """The event loop was busy, or the client is made to wait."""
    live = Clocked()
    live.pass_s(5, rate=1)
    live.pass_s(10, blind=True)
    live.pass_s(0.75)
    assert live.filled_s == 0
    live.pass_s(1)
    assert live.filled_s == 1.75


def test_before_the_first_audio_there_is_no_gap() -> None:
    early = Clocked()
    early.pass_s(60)
    early.pass_s(5, rate=1)
    assert early.filled_s == 0


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 3)), max_size=20), st.floats(0.1, 10))
def test_audio_and_silence_never_outrun_the_clock(parts: list[tuple[float, float]], after_s: float) -> None:
    """Whatever comes when: silence is put in for time that has passed, less what came."""
    live = Clocked(after_s)
    for seconds, rate in parts:
        live.pass_s(seconds, rate=rate)
        assert live.filled_s >= 0
        assert live.filled_s <= max(0.0, live.now - 1_000)

from __future__ import annotations

from asr_service.core import EndpointingConfig, FinalReason
from asr_service.endpointing import Endpointer

FRAME_MS = 80.0


def endpointer(silence_ms: int = 800, longest_ms: int = 0, start_ms: int = 0) -> Endpointer:
    return Endpointer(EndpointingConfig(silence_ms, longest_ms, start_ms), FRAME_MS)


def test_nothing_ends_before_the_first_word() -> None:
    made = endpointer()
    assert made.after_frames(100_000) is None
    assert made.before_token(100_000, starts_word=True) is None


def test_a_pause_of_the_given_length_ends_the_utterance() -> None:
    made = endpointer()
    made.token(4)
    assert made.after_frames(14) is None  # frames 5 to 13 are blank: 720 ms
    assert made.after_frames(15) is FinalReason.ENDPOINT


def test_a_pause_inside_a_step_is_found_before_the_token_after_it() -> None:
    made = endpointer()
    made.token(4)
    assert made.before_token(14, starts_word=True) is None
    assert made.before_token(15, starts_word=True) is FinalReason.ENDPOINT


def test_a_token_that_goes_on_with_a_word_shows_that_there_was_no_pause() -> None:
    made = endpointer()
    made.token(4)
    assert made.before_token(40, starts_word=False) is None


def test_each_token_starts_the_pause_anew() -> None:
    made = endpointer()
    for frame in range(0, 100, 9):
        assert made.before_token(frame, starts_word=True) is None
        made.token(frame)
        assert made.after_frames(frame + 9) is None


def test_a_long_utterance_ends_at_the_next_word() -> None:
    made = endpointer(longest_ms=2_000)
    made.token(10)
    for frame in range(11, 40):
        assert made.before_token(frame, starts_word=False) is None
        made.token(frame)
    made.start_utterance(40)
    made.token(10)
    for frame in range(11, 35):
        assert made.before_token(frame, starts_word=True) is None
        made.token(frame)
    assert made.before_token(35, starts_word=True) is FinalReason.ENDPOINT  # 25 frames: 2 s


def test_the_next_utterance_waits_for_the_next_first_word() -> None:
    made = endpointer()
    made.token(0)
    assert made.after_frames(11) is FinalReason.ENDPOINT
    made.start_utterance(11)
    assert made.after_frames(100) is None


def test_without_config_nothing_ever_ends() -> None:
    made = Endpointer(None, FRAME_MS)
    made.token(0)
    assert made.after_frames(100_000) is None
    assert made.before_token(100_000, starts_word=True) is None


def test_no_word_in_time_is_told_once() -> None:
    made = endpointer(start_ms=800)
    assert made.after_frames(9) is None
    assert made.after_frames(10) is FinalReason.ENDPOINT
    made.start_utterance(10)
    assert made.after_frames(100) is None
    assert made.before_token(100, starts_word=True) is None
    made.token(100)
    assert made.after_frames(111) is FinalReason.ENDPOINT  # the pause after the word
    made.start_utterance(111)
    assert made.after_frames(120) is None
    assert made.after_frames(121) is FinalReason.ENDPOINT  # again nobody speaks


def test_a_first_word_in_the_step_that_is_too_late_starts_the_next_utterance() -> None:
    made = endpointer(start_ms=800)
    assert made.before_token(12, starts_word=True) is FinalReason.ENDPOINT
    made.start_utterance(8)
    assert made.before_token(12, starts_word=True) is None


def test_the_wait_for_a_first_word_starts_anew_with_a_segment() -> None:
    made = endpointer(start_ms=800)
    made.start_utterance(9)
    made.start_utterance(0)
    assert made.after_frames(9) is None
    assert made.after_frames(10) is FinalReason.ENDPOINT

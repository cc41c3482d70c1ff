from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.values import EndpointingConfig, FinalReason
from asr_service.recognition.endpointing import HOLD_MS, Endpointer, frame_levels

FRAME_MS = 80.0


def endpointer(silence_ms: int = 800, longest_ms: int = 0, start_ms: int = 0) -> Endpointer:
    return Endpointer(EndpointingConfig(silence_ms, longest_ms, start_ms), FRAME_MS)


def test_nothing_ends_before_the_first_word() -> None:
    made = endpointer()
    assert made.after_frames(100_000) is None
    assert made.before_token(100_000, starts_word=True) is None


def test_a_pause_of_the_given_length_ends_the_utterance() -> None:
    made = endpointer()
    made.add_token(4)
    assert made.after_frames(14) is None  # frames 5 to 13 are blank: 720 ms
    assert made.after_frames(15) is FinalReason.ENDPOINT


def test_a_pause_inside_a_step_is_found_before_the_token_after_it() -> None:
    made = endpointer()
    made.add_token(4)
    assert made.before_token(14, starts_word=True) is None
    assert made.before_token(15, starts_word=True) is FinalReason.ENDPOINT


def test_a_token_that_goes_on_with_a_word_shows_that_there_was_no_pause() -> None:
    made = endpointer()
    made.add_token(4)
    assert made.before_token(40, starts_word=False) is None


def test_each_token_starts_the_pause_anew() -> None:
    made = endpointer()
    for frame in range(0, 100, 9):
        assert made.before_token(frame, starts_word=True) is None
        made.add_token(frame)
        assert made.after_frames(frame + 9) is None


def test_a_long_utterance_ends_at_the_next_word() -> None:
    made = endpointer(longest_ms=2_000)
    made.add_token(10)
    for frame in range(11, 40):
        assert made.before_token(frame, starts_word=False) is None
        made.add_token(frame)
    made.start_utterance(40)
    made.add_token(10)
    for frame in range(11, 35):
        assert made.before_token(frame, starts_word=True) is None
        made.add_token(frame)
    assert made.before_token(35, starts_word=True) is FinalReason.ENDPOINT  # 25 frames: 2 s


def test_the_next_utterance_waits_for_the_next_first_word() -> None:
    made = endpointer()
    made.add_token(0)
    assert made.after_frames(11) is FinalReason.ENDPOINT
    made.start_utterance(11)
    assert made.after_frames(100) is None


def test_without_config_nothing_ever_ends() -> None:
    made = Endpointer(None, FRAME_MS)
    made.add_token(0)
    assert made.after_frames(100_000) is None
    assert made.before_token(100_000, starts_word=True) is None


def test_no_word_in_time_is_told_once() -> None:
    made = endpointer(start_ms=800)
    assert made.after_frames(9) is None
    assert made.after_frames(10) is FinalReason.ENDPOINT
    made.start_utterance(10)
    assert made.after_frames(100) is None
    assert made.before_token(100, starts_word=True) is None
    made.add_token(100)
    assert made.after_frames(111) is FinalReason.ENDPOINT  # the pause after the word
    made.start_utterance(111)
    assert made.after_frames(120) is None
    assert made.after_frames(121) is FinalReason.ENDPOINT  # again nobody speaks


def test_a_first_word_in_the_step_that_is_too_late_starts_the_next_utterance() -> None:
    made = endpointer(start_ms=800)
    assert made.before_token(12, starts_word=True) is FinalReason.ENDPOINT
    made.start_utterance(8)
    assert made.before_token(12, starts_word=True) is None


def test_the_wait_for_a_first_word_starts_anew_with_an_utterance() -> None:
    made = endpointer(start_ms=800)
    made.start_utterance(9)
    assert not made.has_word
    assert made.after_frames(18) is None
    assert made.after_frames(19) is FinalReason.ENDPOINT


def heard(silence_ms: int, *levels: float) -> Endpointer:
    """After a token at frame 1 and these frames."""
    made = endpointer(silence_ms)
    made.add_levels(levels)
    made.add_token(1)
    return made


def test_frames_as_loud_as_speech_are_no_pause() -> None:
    made = heard(320, -80, -20, -25, -22, -30, -25)
    assert made.after_frames(6) is None  # four frames without a token, all loud
    made.add_levels([-70, -75, -60])
    assert made.after_frames(9) is None
    made.add_levels([-90])
    assert made.after_frames(10) is FinalReason.ENDPOINT


def test_sound_that_goes_on_holds_an_end_back_for_so_long_only() -> None:
    made = heard(320, -80, -20)
    for frame in range(2, 15):
        made.add_levels([-20])
        assert made.after_frames(frame + 1) is None
    made.add_levels([-20])
    assert made.after_frames(16) is FinalReason.ENDPOINT  # 14 frames: 320 + 800 ms


def test_levels_that_tell_nothing_hold_nothing_back() -> None:
    assert heard(320, *[-20] * 6).after_frames(6) is FinalReason.ENDPOINT
    assert heard(320, *[-100] * 6).after_frames(6) is FinalReason.ENDPOINT
    assert heard(320, -20, -22, -25, -29, -20, -20).after_frames(6) is FinalReason.ENDPOINT


def test_background_noise_is_a_pause() -> None:
    assert heard(320, -32, -12, -30, -31, -29, -33).after_frames(6) is FinalReason.ENDPOINT


def test_what_is_loud_is_learnt_across_utterances_and_forgotten_after_ten_seconds() -> None:
    made = heard(320, -80, -20)
    assert made.has_word
    made.start_utterance(2)
    made.add_levels([-22] * 6)
    made.add_token(3)
    assert made.after_frames(8) is None
    made.start_utterance(8)
    made.add_levels([-22] * 125)
    made.add_token(128)
    assert made.after_frames(133) is FinalReason.ENDPOINT


@dataclass(frozen=True)
class Spoken:
    """A word: frames between its pieces, all of them loud, and silent frames after it."""

    gaps: tuple[int, ...]
    pause: int


MOST = HOLD_MS // 80  # frames


@given(
    st.lists(
        st.builds(Spoken, st.lists(st.integers(1, MOST), max_size=4).map(tuple), st.integers(0, 30)),
        min_size=1,
    ),
    st.integers(1, 14),
    st.sampled_from([100, 320, 500, 800]),
    st.randoms(use_true_random=False),
)
def test_nothing_ends_inside_a_spoken_word(
    words: list[Spoken], step: int, silence_ms: int, rng: Random
) -> None:
    """For any steps; and every pause of the length ends one utterance, in it or before the word after it."""
    tokens: list[tuple[int, bool]] = []
    loud: list[bool] = [False]
    pauses = []  # (first silent frame, frame of the next word)
    for word in words:
        tokens.append((len(loud), True))
        loud.append(True)
        for gap in word.gaps:
            loud += [True] * gap
            tokens.append((len(loud) - 1, False))
        pauses.append((len(loud), len(loud) + word.pause))
        loud += [False] * word.pause
    levels = [rng.uniform(-30, -15) if one else rng.uniform(-90, -60) for one in loud]
    made = endpointer(silence_ms)
    open_since, ends = -1, []
    for start in range(0, len(levels), step):
        end = min(start + step, len(levels))
        made.add_levels(levels[start:end])
        for frame, starts_word in tokens:
            if start <= frame < end:
                if made.before_token(frame, starts_word=starts_word):
                    assert starts_word
                    ends.append(frame)
                    made.start_utterance(frame)
                    open_since = -1
                assert starts_word or open_since >= 0, "the word's start is in an utterance that is over"
                made.add_token(frame)
                open_since = frame
        if made.after_frames(end):
            ends.append(end)
            made.start_utterance(end)
            open_since = -1
    needed = -(-silence_ms // 80)
    for silent_from, next_word in pauses:
        found = [frame for frame in ends if silent_from < frame <= next_word]
        assert len(found) == (next_word - silent_from >= needed)
    assert len(ends) == sum(later - first >= needed for first, later in pauses)


def test_levels_of_frames() -> None:
    samples = np.concatenate([np.full(200, 0.1), np.full(1280, 1.0), np.zeros(1280)]).astype(np.float32)
    assert frame_levels(samples, 3, 1280) == pytest.approx([-20, 0, -100], abs=0.01)
    assert frame_levels(samples[:0], 1, 1280) == [-100]
    assert frame_levels(samples, 0, 1280) == []

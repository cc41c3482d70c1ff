"""Finds where utterances end by themselves: after a pause or at a length. Pure; time is counted in encoder frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from math import log10

from asr_service.core.values import EndpointingConfig, FinalReason, Samples

HOLD_MS = 800
"""For how long sound without tokens may delay an endpoint, beyond the trailing silence of the config."""
WINDOW_MS = 10_000
"""How much of the past decides what counts as loud and as quiet."""
# So far below the loudest frame everything is equally quiet, digital silence too.
_RANGE_DB = 50.0
# Levels that differ less do not distinguish speech from background.
_LEAST_RANGE_DB = 10.0


def frame_levels(samples: Samples, frames: int, frame_samples: int) -> list[float]:
    """Returns the level of each of a chunk's frames in dB.

    Args:
        samples: of the chunk, float32 [n].
        frames: how many there are. The last one ends with the chunk; the first may be shorter or longer.
        frame_samples: samples of a frame.
    """
    ends = [max(0, len(samples) - later * frame_samples) for later in range(frames - 1, -1, -1)]
    parts = [samples[start:end] for start, end in pairwise([0, *ends])]
    return [10 * log10(float(part @ part) / len(part) + 1e-10) if len(part) else -100.0 for part in parts]


class Endpointer:
    """Finds the ends of one stream's utterances in the frames its words were emitted at, and in their loudness.

    Tokens are those of words: marks, spaces and what is no text do not tell who speaks when. A pause is a run of frames
    without a token: `before_token` finds one inside a step, `after_frames` one that is still going on. Nothing ends
    inside a word: a token that goes on with a word shows that the pause before it was none, as far as it comes in the
    step that sees the pause; and frames without a token are no pause while they are as loud as speech, since the pieces
    of a long word come far apart. Loud is what lies above the middle, in dB, between the quietest and the loudest frame
    of the last ten seconds. Background that is as loud, or speech that the model has no words for, holds an end back
    for `HOLD_MS` at most. Before the first word, only the start timeout ends an utterance, once until a word comes.
    Frames count from the stream's start, whatever segments it has.

    Args:
        config: the limits; None if only the client ends utterances.
        frame_ms: duration of an encoder frame.
    """

    def __init__(self, config: EndpointingConfig | None, frame_ms: float) -> None:
        self._silence_ms = config.trailing_silence_ms if config else 0
        self._longest_ms = config.max_utterance_ms if config else 0
        self._start_ms = config.start_timeout_ms if config else 0
        self._frame_ms = frame_ms
        # Frames of the utterance's start and of its first and last token; -1 before its first token.
        self._start = 0
        self._first_token = -1
        self._last_token = -1
        # Whether the start timeout has ended an utterance since the last word.
        self._timed_out = False
        # Levels of the newest frames, and how many frames have had theirs taken.
        self._levels: deque[float] = deque(maxlen=round(WINDOW_MS / frame_ms))
        self._level_count = 0

    @property
    def has_word(self) -> bool:
        """Whether the utterance has a word, or the beginning of one."""
        return self._first_token >= 0

    @property
    def needs_levels(self) -> bool:
        """Whether the levels of frames matter."""
        return self._silence_ms > 0

    def add_levels(self, levels_db: Sequence[float]) -> None:
        """Takes the levels of a step's frames, before the step's tokens; only their differences matter."""
        self._levels.extend(levels_db)
        self._level_count += len(levels_db)

    def before_token(self, frame: int, *, starts_word: bool) -> FinalReason | None:
        """Returns why the utterance ends before a token at this frame, which then belongs to the next one; or None."""
        if self._first_token < 0:
            return self.after_frames(frame)
        if not starts_word:
            return None
        too_long = self._longest_ms and (frame - self._first_token) * self._frame_ms >= self._longest_ms
        return FinalReason.ENDPOINT if too_long else self.after_frames(frame)

    def add_token(self, frame: int) -> None:
        """Takes a token that was emitted at this frame."""
        if self._first_token < 0:
            self._first_token = frame
            self._timed_out = False
        self._last_token = frame

    def after_frames(self, frames: int) -> FinalReason | None:
        """Returns why the utterance ends, now that so many frames are decoded; None if it goes on."""
        if self._first_token < 0:
            late = self._start_ms and (frames - self._start) * self._frame_ms >= self._start_ms
            if not late or self._timed_out:
                return None
            self._timed_out = True
            return FinalReason.ENDPOINT
        if not self._silence_ms:
            return None
        silent_ms = (frames - self._last_token - 1) * self._frame_ms
        if silent_ms < self._silence_ms:
            return None
        if silent_ms < self._silence_ms + HOLD_MS:
            silent_ms = (frames - self._last_loud(frames) - 1) * self._frame_ms
        return FinalReason.ENDPOINT if silent_ms >= self._silence_ms else None

    def _last_loud(self, frames: int) -> int:
        """Finds the last frame before `frames` that holds a token or is loud."""
        if not self._levels:
            return self._last_token
        most = max(self._levels)
        least = max(min(self._levels), most - _RANGE_DB)
        if most - least < _LEAST_RANGE_DB:
            return self._last_token
        oldest = self._level_count - len(self._levels)
        for frame in range(min(frames, self._level_count) - 1, max(self._last_token, oldest - 1), -1):
            if self._levels[frame - oldest] > (least + most) / 2:
                return frame
        return self._last_token

    def start_utterance(self, frames: int) -> None:
        """Starts the next utterance at this frame."""
        self._first_token = self._last_token = -1
        self._start = frames

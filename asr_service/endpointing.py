"""Where an utterance ends by itself: a pause after a word, or a length. Pure; time is counted in encoder frames."""

from __future__ import annotations

from asr_service.core import EndpointingConfig, FinalReason


class Endpointer:
    """Finds the ends of one stream's utterances in the frames its tokens were emitted at.

    A pause is a run of frames without a token: `before_token` finds one inside a step, `after_frames` one that is still
    going on. Nothing ends inside a word: a token that goes on with a word shows that the pause before it was none, as
    far as it comes in the step that sees the pause. Before the first word, only the start timeout ends an utterance,
    once until a word comes. Frames count from the segment's start.

    Args:
        config: the limits; None if only the client ends utterances.
        frame_ms: duration of an encoder frame.
    """

    def __init__(self, config: EndpointingConfig | None, frame_ms: float) -> None:
        self._silence_ms = config.trailing_silence_ms if config else 0
        self._longest_ms = config.max_utterance_ms if config else 0
        self._start_ms = config.start_timeout_ms if config else 0
        self._frame_ms = frame_ms
        self._first = -1  # frame of the utterance's first token, -1 before it
        self._last = -1  # frame of its last token
        self._from = 0  # frame that the utterance starts at
        self._told = False  # that no word has come

    def before_token(self, frame: int, *, starts_word: bool) -> FinalReason | None:
        """Whether the utterance ends before a token at this frame; the token then belongs to the next one."""
        if self._first < 0:
            return self.after_frames(frame)
        if not starts_word:
            return None
        too_long = self._longest_ms and (frame - self._first) * self._frame_ms >= self._longest_ms
        return FinalReason.ENDPOINT if too_long else self.after_frames(frame)

    def token(self, frame: int) -> None:
        """Notes a token at this frame."""
        if self._first < 0:
            self._first = frame
            self._told = False
        self._last = frame

    def after_frames(self, frames: int) -> FinalReason | None:
        """Whether the utterance has ended, now that this many frames of the segment are decoded."""
        if self._first < 0:
            late = self._start_ms and (frames - self._from) * self._frame_ms >= self._start_ms
            if not late or self._told:
                return None
            self._told = True
            return FinalReason.ENDPOINT
        if not self._silence_ms or (frames - self._last - 1) * self._frame_ms < self._silence_ms:
            return None
        return FinalReason.ENDPOINT

    def start_utterance(self, frames: int) -> None:
        """Starts the next utterance at this frame."""
        self._first = self._last = -1
        self._from = frames

"""How much silence stands for audio that a live client does not send: a muted microphone, DTX, a held call. Pure.

A gap is time without audio beyond what the client is ahead of real time. It is counted once it has lasted long enough,
and as long as it lasts. What a gap is not: the jitter of packets, a clock that is a little slow, an upload that pauses
while it is ahead, a recorder whose packets are longer than the pauses between them, and time in which nobody looked.
"""

from __future__ import annotations

LEAD_S = 1.0
"""So much audio may come at once at the beginning and count as live: what was kept while connecting."""


class GapWatch:
    """Watches one stream's audio. Times are seconds on one monotonic clock.

    Args:
        after_s: how long no audio comes before that is a gap.

    Attributes:
        in_gap: whether the last look found a gap.
    """

    def __init__(self, after_s: float) -> None:
        self.in_gap = False
        self._after_s = after_s
        self._looked_at = 0.0
        # Audio received by the last look, and silence put in; seconds.
        self._received_s = 0.0
        self._filled_s = 0.0
        # When the audio began, as live audio would have; None before there is any. It moves back to the limit at most.
        self._began: float | None = None
        self._began_limit = 0.0
        # As of the last look that found new audio: its time, how much was new beyond the time since the look before it,
        # and by how much the audio was behind real time.
        self._flowed_at = 0.0
        self._extra_s = 0.0
        self._behind_s = 0.0

    def look(self, received_s: float, now: float, *, blind: bool = False) -> float:
        """Says how much silence is missing now, in seconds.

        Args:
            received_s: audio received so far, in seconds.
            now: the time.
            blind: whether audio may wait that could not be received: then the time since the last look is no gap.
        """
        since_s, self._looked_at = now - self._looked_at, now
        new_s, self._received_s = received_s - self._received_s, received_s
        if self._began is None:
            if not new_s:
                return 0.0
            since_s = 0.0
            self._began = now - received_s
            self._began_limit = self._began - LEAD_S
        if new_s or blind:
            self._began = max(self._began_limit, min(self._began, now - received_s - self._filled_s))
            self._flowed_at, self._extra_s = now, max(0.0, new_s - since_s)
            self._behind_s = max(0.0, self._lag_s(now))
            self.in_gap = False
            return 0.0
        self.in_gap = now - self._flowed_at >= self._after_s + self._extra_s
        return max(0.0, self._lag_s(now) - self._behind_s) if self.in_gap else 0.0

    def fill(self, seconds: float) -> None:
        """Takes that so much silence was put in."""
        self._filled_s += seconds

    def _lag_s(self, now: float) -> float:
        assert self._began is not None
        return now - self._began - self._received_s - self._filled_s

"""Whether a call has been quiet for too long. Pure: the clock is an argument.

What is watched depends on where the call is:

| the call | is watched from | and is then idle by |
| --- | --- | --- |
| sends, and its packets are taken | when the client was last heard | NOTHING_RECEIVED |
| is held back: the engine has audio enough | never: the client is quiet by our doing | |
| has half-closed, no result waits to be read | never: how long the tail takes is our own business | |
| has half-closed, a result waits to be read | the write's begin, or the half-close if later | NOTHING_READ |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Idle(Enum):
    """Why a call counts as idle."""

    NOTHING_RECEIVED = "nothing received"
    NOTHING_READ = "nothing read"


@dataclass(slots=True)
class IdleWatch:
    """Watches one call. The attributes are facts that the call's reader and writer keep up to date.

    Times are seconds on one monotonic clock.

    Attributes:
        limit_s: how long a call may be quiet.
        heard_at: when the client was last heard; the half-close counts.
        held_back: whether the reader waits for the engine, and so reads nothing from the client.
        half_closed: whether the client has ended its input.
        writing_since: when the write began that waits for the client to read, None while none does.
    """

    limit_s: float
    heard_at: float
    held_back: bool = False
    half_closed: bool = False
    writing_since: float | None = None

    def check(self, now: float) -> Idle | float:
        """Says why the call is idle, or in how many seconds it could be idle at the earliest."""
        since = self._watched_since(now)
        left_s = since + self.limit_s - now
        if left_s > 0:
            return left_s
        return Idle.NOTHING_READ if self.half_closed else Idle.NOTHING_RECEIVED

    def _watched_since(self, now: float) -> float:
        if not self.half_closed:
            return now if self.held_back else self.heard_at
        return now if self.writing_since is None else max(self.writing_since, self.heard_at)

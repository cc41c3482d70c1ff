"""Decides how long the engine sleeps between two turns. Pure: the clock is an argument."""

from __future__ import annotations

# Shortest time between turns without a step: waking up costs more than executing a command.
_PAUSE_S = 0.002
# Longest sleep while no step can be due: chunks need not be added one by one, but a client may wait for a slot.
_LONGEST_PAUSE_S = 0.02
# Longest sleep, so that the load and the model's readings are kept up to date while nothing happens.
_IDLE_TURN_S = 1.0


class Pace:
    """Works out pauses between turns. With a tick of 0 there are none: a step begins as soon as one stream is ready.

    Args:
        tick_s: see `Scheduler`.
    """

    def __init__(self, tick_s: float) -> None:
        self._pause_s = min(_PAUSE_S, tick_s)
        # Monotonic time.
        self._turn_began = 0.0

    def turn_begins(self, now: float) -> None:
        """Takes the time of a turn that begins now."""
        self._turn_began = now

    def wait(self, now: float, due_s: float | None, quiet_s: float = 0.0) -> tuple[float, float]:
        """Returns how long to sleep whatever comes, and until when to wait for something to come after that.

        Args:
            now: monotonic seconds.
            due_s: seconds until there is something to do, None if that is not known.
            quiet_s: seconds in which no step can be due, whatever comes.

        Returns:
            Seconds to sleep, 0 or less for not at all, and the monotonic time to wait until.
        """
        until = now + (_IDLE_TURN_S if due_s is None else min(due_s, _IDLE_TURN_S))
        awake_at = max(self._turn_began + self._pause_s, now + min(quiet_s, _LONGEST_PAUSE_S))
        return min(awake_at, until) - now, until

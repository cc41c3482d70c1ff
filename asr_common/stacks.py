"""A process that hangs shows what its threads do, before it is killed."""

from __future__ import annotations

import faulthandler
import signal
import sys

SHOW_STACKS = signal.SIGUSR1
"""Makes a process that has called `show_on_signal` write its threads' stacks to standard error, whatever it does."""
STACKS_S = 0.2
"""How long a process has for that until it is killed."""


def show_on_signal() -> None:
    """Makes this process show its stacks at `SHOW_STACKS`."""
    faulthandler.register(SHOW_STACKS, file=sys.stderr)

"""How threads that handle packets share the cores with the steps of a model."""

from __future__ import annotations

import contextlib
import os


def do_not_displace() -> None:
    """From now on, threads of this process wait for a free core, or for the end of another thread's turn, to run.

    The threads of a step meet every half millisecond, so that whatever displaces one of them stops all. A packet can
    wait: until its chunk is complete nothing depends on it. With a core to spare nothing waits. For the calling thread
    and all that it starts; without effect where the system has no such policy (Linux has: SCHED_BATCH) or forbids it.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

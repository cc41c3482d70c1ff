"""What a forked process does at first: it is tied to the life of the one that forked it, and has a name of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def end_with_parent(parent: int) -> None:
    """From now on, the system ends this process when its parent ends (Linux); ends it here if that has ended already.

    Args:
        parent: process id of the parent, as it was before the fork.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the call above could take effect.
    if os.getppid() != parent:
        os._exit(1)


def name_process(name: str) -> None:
    """Gives this process a name that `ps` and `top` show, of at most 15 characters (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)

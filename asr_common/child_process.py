"""What a forked process does so that it never outlives the one that forked it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


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

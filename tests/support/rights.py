"""Takes rights from a process, of which root has more than other users: for a while, or for good."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def without_rights(path: Path) -> Iterator[None]:
    """Takes all rights on a file or folder from everybody; root reads as nobody meanwhile."""
    mode = path.stat().st_mode & 0o777
    # Folders of tests are their owner's alone: somebody else may pass them meanwhile.
    above = {folder: folder.stat().st_mode & 0o777 for folder in path.parents if _is_own(folder)}
    for folder, its_mode in above.items():
        folder.chmod(its_mode | 0o011)
    path.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(mode)
        for folder, its_mode in above.items():
            folder.chmod(its_mode)


def _is_own(folder: Path) -> bool:
    return folder.stat().st_uid == os.geteuid() and folder != folder.parent and folder.parent != Path("/")


def give_up_rights() -> None:
    """Empties the capabilities of this process; see capset(2)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")

"""How the whole suite is shared by workers (pytest-xdist): who takes what, and what is done once for all.

There are three for two cores, since most tests of servers wait half of their time. All tests that import NeMo stay
together in one worker: the import and the models are made once. Other tests stay with those of their file, so that a
server which they share is started once. What takes longest begins first, so that all workers end at about the same
time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
NEMO = ("tests/model/", "tests/e2e/test_conversation.py", "tests/unit/demo_model/test_features.py")
ALONE = "tests/torture/"
"""Its tests share nothing, and each takes half a minute."""


def share(nodeid: str) -> str:
    """The tests that go to the same worker have the same one."""
    if nodeid.startswith(NEMO):
        return NEMO[0]
    return nodeid if nodeid.startswith(ALONE) else nodeid.partition("::")[0]


def longest_first(items: list[pytest.Item]) -> None:
    """Puts tests with NeMo first, then the shares of which some are marked as slow."""
    slow = {share(item.nodeid) for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (share(item.nodeid) != NEMO[0], share(item.nodeid) not in slow))


class Shares(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out shares in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        config.option.loadscopereorder = False  # by number of tests, which says nothing
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return share(nodeid)


def once(factory: pytest.TempPathFactory, name: str, work: Callable[[], object]) -> None:
    """Does some work in the first worker that comes here, while the others wait."""
    folder = factory.getbasetemp()
    if IS_WORKER:
        folder = folder.parent  # of the run
    with (folder / name).open("ab") as done:
        fcntl.flock(done, fcntl.LOCK_EX)
        if not done.seek(0, os.SEEK_END):
            work()
            done.write(b"done")

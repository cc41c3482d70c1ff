"""Processes under measurement."""

from __future__ import annotations

import threading

import pytest

from asr_common.server_process import ServerError
from testbed.processes import Server


def test_a_server_that_does_not_come_up_is_told_and_leaves_nothing_to_wait_for() -> None:
    before = set(threading.enumerate())
    with pytest.raises(ServerError, match="no such model"):
        Server("-c", "print('no such model')")
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_a_server_is_waited_for_and_stopped() -> None:
    program = "import time; print('loading', flush=True); print('serving grpc on here:1', flush=True); time.sleep(600)"
    with Server("-c", program) as server:
        assert server.target == "here:1"
        assert server.cpu_s() >= 0

"""Processes that are started, waited for and stopped: whatever happens, none is left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from asr_common.server_process import ServerError, ServerProcess

SERVER = """
import pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("loading", flush=True)
for path in sys.argv[1:]:
    pathlib.Path(path).write_text("ready")
print("serving", flush=True)
print("serving again", flush=True)
signal.sigwait([signal.SIGTERM])
print("stopped")
"""
DEAF = 'import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print("serving", flush=True); signal.pause()'


def start(program: str, *argv: object, own_session: bool = False) -> ServerProcess:
    return ServerProcess(["-c", program, *map(str, argv)], os.environ, own_session=own_session)


def test_a_server_is_waited_for_and_stopped_as_an_operator_does() -> None:
    with start(SERVER) as server:
        assert server.wait_line("serv").string == "serving"
        assert server.wait_line("serv", count=2).string == "serving again"
        assert server.stop() == 0
        assert server.lines == ["loading", "serving", "serving again", "stopped"]
        assert server.stop() == 0, "a second time"


def test_its_ready_file_is_waited_for(tmp_path: Path) -> None:
    with start(SERVER, tmp_path / "ready") as server:
        assert server.wait_file(tmp_path / "ready", 60)
        assert not server.wait_file(tmp_path / "other", 0.1), "who waits says how long"


def test_what_ends_instead_is_told_with_what_it_said(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    waits: list[Callable[[ServerProcess], object]] = [
        lambda server: server.wait_line("serving"),
        lambda server: server.wait_started("serving"),
        lambda server: server.wait_file(tmp_path / "ready", 60),
    ]
    for wait in waits:
        with (
            start("import sys; print('no such model'); sys.exit(2)") as server,
            pytest.raises(ServerError, match="ended with 2; it said:\nno such model"),
        ):
            wait(server)
    assert not set(threading.enumerate()) - before


def test_what_is_waited_for_in_vain_is_killed_before_anybody_has_it() -> None:
    server = start(SERVER)
    with pytest.raises(ServerError, match=r"not in 0\.1 s"):
        server.wait_started("listening", 0.1)
    assert server.popen.returncode == -signal.SIGKILL


def test_one_that_does_not_stop_is_killed() -> None:
    with start(DEAF) as server:
        server.wait_line("serving")
        with pytest.raises(ServerError, match=r"did not end in 0\.1 s"):
            server.wait(0.1)
        assert server.stop(0.1) == -signal.SIGKILL


def test_leaving_the_context_ends_it() -> None:
    with start(SERVER) as server:
        server.wait_line("serving again")
    assert server.popen.returncode == -signal.SIGKILL
    assert server.lines[-1] == "serving again"


@pytest.mark.parametrize("own_session", [False, True])
def test_a_session_of_its_own_keeps_ctrl_c_from_it(own_session: bool) -> None:
    with start(SERVER, own_session=own_session) as server:
        assert (os.getpgid(server.pid) == server.pid) == own_session


def test_another_program_than_python() -> None:
    with ServerProcess(["-c", "import sys; print(sys.argv)"], os.environ, program=sys.executable) as server:
        assert server.wait() == 0
        assert server.output == "['-c']"

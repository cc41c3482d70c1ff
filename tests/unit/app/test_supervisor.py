"""Engines and front ends as processes: connected, killed, stopped, started again and drained.

Each case is a program of its own, whose engines echo what comes over their links and whose front ends try each link
once. What they print comes in the order in which it happened, over one pipe that ends when the last of them has.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PATIENCE_S = 60.0
PRELUDE = """
import os, pickle, select, signal, socket, sys, time
from asr_common import restarts, stacks
from asr_common.process_group import ProcessGroup
from asr_service.app.board import Board
from asr_service.app.control import FromEngine, FromFrontEnd, ToEngine, ToFrontEnd
from asr_service.app.processes import Plan
from asr_service.app.supervisor import Supervisor
from asr_service.core.errors import ModelUnavailable, SettingsError

ENGINES, FRONT_ENDS = ["one", "two"], 3
restarts.FIRST_WAIT_S = 0.01
board = Board(len(ENGINES), FRONT_ENDS)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def messages(control, record, others):
    stacks.show_on_signal()
    while control.is_open:
        record.beat = time.monotonic()
        ready, _, _ = select.select([control, *others], [], [], 0.05)
        for link in ready:
            if link is not control:
                heard = link.recv(100)
                # The front end of a link that has ended is gone.
                link.send(heard) if heard else others.remove(link)
        if control in ready:
            yield from control.read()

def engine(number, control, pinned):
    # As one whose hub has a newer model at each start.
    pinned = pinned or f"org/model@{os.getpid()}"
    control.send((FromEngine.MADE, f"model {number}".encode(), pinned), [os.memfd_create("pool")])
    record, links = board.engines[number], []
    record.beat = time.monotonic()
    control.send((FromEngine.RUNNING,))
    say("engine", number, "has", pinned)
    say("engine", number, "runs as", os.getpid())
    for message, descriptors in messages(control, record, links):
        if message[0] == ToEngine.STOP:
            say("engine", number, "stops")
            return 0
        links.append(socket.socket(fileno=descriptors[0]))
    return 1

def front_end(number, control):
    record, links = board.front_ends[number], []
    record.beat = time.monotonic()
    control.send((FromFrontEnd.LISTENING, 50051))
    say("front", number, "listens as", os.getpid())
    for message, descriptors in messages(control, record, []):
        if message[0] == ToFrontEnd.ENGINE and not descriptors:
            say("front", number, "knows", message[2].decode(), "of engine", message[1])
        elif message[0] == ToFrontEnd.ENGINE:
            pool, link = descriptors
            links.append(socket.socket(fileno=link))
            links[-1].send(message[2])
            say("front", number, "hears", links[-1].recv(100).decode(), "from engine", message[1])
        elif message[0] == ToFrontEnd.SERVE:
            say("front", number, "serves")
            if number == 0:
                control.send((FromFrontEnd.ASK_PERMIT, 1, "key", 2, 2))
        elif message[0] == ToFrontEnd.PERMIT:
            say("front", number, "has", *message[1:])
        elif message[0] == ToFrontEnd.DRAIN:
            say("front", number, "drains")
            return 0
    return 1

def run(run_engine=engine, run_front_end=front_end, watchdog_s=30.0):
    plan = Plan(
        ENGINES, FRONT_ENDS, run_engine, run_front_end, drain_s=30.0, watchdog_s=watchdog_s,
        on_ready=lambda port: say("ready"),
    )
    group = ProcessGroup()
    try:
        code = Supervisor(plan, board, group).run()
    except (SettingsError, ModelUnavailable) as error:
        code = error.message
    say("over with", code)
    group.close()
"""


class Service:
    """A running program and what it has said.

    Attributes:
        popen: the supervisor's process.
        lines: that were read so far.
    """

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.lines: list[str] = []

    def line(self, pattern: str) -> re.Match[str]:
        """Reads on to the next line that matches."""
        assert self.popen.stdout
        for line in self.popen.stdout:
            self.lines.append(line.rstrip())
            if match := re.fullmatch(pattern, line.rstrip()):
                return match
        raise AssertionError(f"it ended without {pattern!r}: {self.lines}")

    def all_of(self, *patterns: str) -> None:
        """Reads on until a line has matched each of these, in any order: they are of different processes."""
        left = set(patterns)
        while left:
            found = self.line("|".join(f"({pattern})" for pattern in left))
            left -= {pattern for pattern in left if re.fullmatch(pattern, found[0])}

    def until_ready(self) -> None:
        """Reads on until everything runs, and each front end has tried its links."""
        wanted = {f"front {f} hears model {e} from engine {e}" for f in range(3) for e in range(2)}
        wanted |= {"ready", "front 0 has 1 True"}
        while not wanted <= {*self.lines}:
            self.line(".*")

    def pids(self) -> dict[str, int]:
        """The processes that have said that they run, by "engine 0" or "front 2"."""
        found = (re.fullmatch(r"(\w+ \d) \w+ as (\d+)", line) for line in self.lines)
        return {match[1]: int(match[2]) for match in found if match}

    def rest(self) -> list[str]:
        """Everything that it says until the last of its processes has ended."""
        assert self.popen.stdout
        # `communicate` would not have what was read ahead for `line`.
        patience = threading.Timer(PATIENCE_S, self.popen.kill)
        patience.start()
        output = [line.rstrip() for line in self.popen.stdout]
        self.popen.wait()
        patience.cancel()
        self.lines += output
        return output


@contextmanager
def service(call: str = "run()") -> Iterator[Service]:
    """Runs the prelude with a call."""
    argv = [sys.executable, "-c", PRELUDE + textwrap.dedent(call)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as popen:
        try:
            yield Service(popen)
        finally:
            popen.kill()


def test_all_are_connected_then_serve_then_drain() -> None:
    with service() as running:
        running.until_ready()
        os.kill(running.popen.pid, signal.SIGTERM)
        running.rest()
        lines = running.lines
        assert running.popen.returncode == 0
    for front_end in range(3):
        for engine in range(2):
            assert f"front {front_end} hears model {engine} from engine {engine}" in lines
        assert f"front {front_end} serves" in lines
    drains = [at for at, line in enumerate(lines) if line.endswith("drains")]
    stops = [at for at, line in enumerate(lines) if line.endswith("stops")]
    assert {lines[at] for at in drains} == {f"front {number} drains" for number in range(3)}
    assert {lines[at] for at in stops} == {"engine 0 stops", "engine 1 stops"}
    # Engines step until the last front end is done.
    assert max(drains) < min(stops)
    assert lines[-1] == "over with 0"


def test_an_engine_that_is_killed_comes_back_to_all_front_ends() -> None:
    with service() as running:
        running.until_ready()
        os.kill(running.pids()["engine 1"], signal.SIGKILL)
        running.line("engine 1 runs as .*")
        heard = {running.line(r"front (\d) hears model 1 from engine 1")[1] for _ in range(3)}
        assert heard == {"0", "1", "2"}
        os.kill(running.popen.pid, signal.SIGINT)
        assert running.rest()[-1] == "over with 0"
        # The others went on.
        assert sum(line.startswith("front 0 listens") for line in running.lines) == 1
        assert sum(line.startswith("engine 0 runs") for line in running.lines) == 1


def test_an_engine_that_is_started_again_has_the_model_that_it_had() -> None:
    """However often, and whatever the hub has by then: its first start has said which one that is."""
    with service() as running:
        running.until_ready()
        for _ in range(2):
            os.kill(running.pids()["engine 1"], signal.SIGKILL)
            running.all_of("engine 1 runs as .*", "ready")
        os.kill(running.popen.pid, signal.SIGINT)
        assert running.rest()[-1] == "over with 0"
        had = [line.split()[-1] for line in running.lines if line.startswith("engine 1 has ")]
        others = [line.split()[-1] for line in running.lines if line.startswith("engine 0 has ")]
        assert len(had) == 3 and len({*had}) == 1 and others != had[:1]


def test_a_front_end_that_is_killed_comes_back_with_its_engines_and_without_its_permits() -> None:
    with service() as running:
        running.until_ready()
        os.kill(running.pids()["front 0"], signal.SIGKILL)
        running.line("front 0 listens as .*")
        # The permits that its key may have are free again, all of them.
        running.line("front 0 has 1 True")
        assert sum(line.startswith("front 0 hears") for line in running.lines) == 4
        os.kill(running.popen.pid, signal.SIGTERM)
        assert running.rest()[-1] == "over with 0"


def test_a_front_end_that_comes_while_an_engine_is_away_knows_what_that_serves() -> None:
    """So it lets streams for the others in."""
    call = """
    import mmap

    started = mmap.mmap(-1, len(ENGINES))

    def slow_to_come_back(number, control, pinned):
        if started[number]:
            say("engine", number, "makes its model")
            while control.is_open:
                select.select([control], [], [])
                control.read()
        started[number] = 1
        return engine(number, control, pinned)

    run(run_engine=slow_to_come_back)
    """
    with service(call) as running:
        running.until_ready()
        os.kill(running.pids()["engine 1"], signal.SIGKILL)
        running.line("engine 1 makes its model")
        os.kill(running.pids()["front 2"], signal.SIGKILL)
        running.line("front 2 listens as .*")
        assert {running.line("front 2 (knows|hears) .*")[0] for _ in range(2)} == {
            "front 2 hears model 0 from engine 0",
            "front 2 knows model 1 of engine 1",
        }
        running.line("front 2 serves")
        os.kill(running.popen.pid, signal.SIGTERM)
        assert running.rest()[-1] == "over with 0"


def test_no_permit_is_refused_because_of_one_that_was_given_back_before() -> None:
    """It was given back over another front end's channel, and both messages wait when the supervisor looks."""
    call = """
    given_back, told = os.pipe()

    def ask_and_give_back(number, control):
        record = board.front_ends[number]
        record.beat = time.monotonic()
        control.send((FromFrontEnd.LISTENING, 50051))
        for message, descriptors in messages(control, record, []):
            if message[0] == ToFrontEnd.SERVE and number == 2:
                control.send((FromFrontEnd.ASK_PERMIT, 1, "key", 1, 1))
            elif message[0] == ToFrontEnd.SERVE and number == 0:
                os.read(given_back, 1)
                control.send((FromFrontEnd.ASK_PERMIT, 1, "key", 1, 1))
                os.kill(os.getppid(), signal.SIGCONT)
            elif message[0] == ToFrontEnd.PERMIT and number == 2:
                os.kill(os.getppid(), signal.SIGSTOP)
                while open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[0] != "T":
                    time.sleep(0.001)
                control.send((FromFrontEnd.GIVE_BACK, "key", 1))
                os.write(told, b"!")
            elif message[0] == ToFrontEnd.PERMIT and number == 0:
                say("front 0 has", *message[1:])
            elif message[0] == ToFrontEnd.DRAIN:
                return 0
        return 1

    run(run_front_end=ask_and_give_back)
    """
    with service(call) as running:
        assert running.line("front 0 has 1 (.*)")[1] == "True"
        os.kill(running.popen.pid, signal.SIGTERM)
        assert running.rest()[-1] == "over with 0"


def test_a_process_that_gives_no_sign_of_life_is_killed_and_started_again() -> None:
    with service("run(watchdog_s=1.0)") as running:
        running.until_ready()
        for name, words in (("engine 0", "runs"), ("front 2", "listens")):
            stopped = running.pids()[name]
            os.kill(stopped, signal.SIGSTOP)
            running.line(f"{name} {words} as .*")
            assert running.pids()[name] != stopped
        os.kill(running.popen.pid, signal.SIGTERM)
        assert running.rest()[-1] == "over with 0"


def test_processes_that_were_stopped_together_with_the_supervisor_are_left_alone() -> None:
    """As Ctrl-Z stops them, or a machine that stands still for a while: no sign of life, and nobody hangs."""
    with service("run(watchdog_s=1.0)") as running:
        running.until_ready()
        pids = running.pids()
        for pid in (*pids.values(), running.popen.pid):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2.5)
        # The supervisor may look before the others have gone on.
        os.kill(running.popen.pid, signal.SIGCONT)
        time.sleep(0.2)
        for pid in pids.values():
            os.kill(pid, signal.SIGCONT)
        time.sleep(1.0)
        os.kill(running.popen.pid, signal.SIGTERM)
        running.rest()
        assert running.pids() == pids and running.lines[-1] == "over with 0"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("SettingsError('ASR_MODEL: no such file')", "ASR_MODEL: no such file"),
        ("ModelUnavailable('the hub is away')", "the hub is away"),
        ("None", "1"),
    ],
)
def test_what_cannot_be_had_at_the_start_ends_the_service(error: str, code: str) -> None:
    with service(f"""
        def failing(number, control, pinned):
            if number == 0:
                return engine(number, control, pinned)
            if {error}:
                control.send((FromEngine.FAILED, pickle.dumps({error})))
            return 1
        run(failing)
    """) as running:
        assert running.rest()[-1] == f"over with {code}"
        assert "ready" not in running.lines


def test_what_fails_again_and_again_ends_the_service() -> None:
    with service(f"""
        start = time.monotonic()
        def failing(number, control, pinned):
            if number == 1 and {"board.service.is_serving"}:
                return 1
            return engine(number, control, pinned)
        run(failing)
    """) as running:
        running.until_ready()
        os.kill(running.pids()["engine 1"], signal.SIGKILL)
        assert running.rest()[-1] == "over with 1"


def test_a_process_that_the_system_has_no_room_for_is_started_later() -> None:
    with service("""
        import errno
        fork, refused = os.fork, []
        def refusing():
            if board.service.is_serving and not refused:
                refused.append("once")
                say("refused")
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return fork()
        os.fork, restarts.FORK_RETRY_S = refusing, 0.01
        run()
    """) as running:
        running.until_ready()
        os.kill(running.pids()["front 1"], signal.SIGKILL)
        running.line("refused")
        running.line("front 1 listens as .*")
        os.kill(running.popen.pid, signal.SIGTERM)
        assert running.rest()[-1] == "over with 0"


def test_a_front_end_that_hangs_before_it_listens_is_started_again() -> None:
    with service("""
        from asr_service.app import supervisor
        supervisor.FRONT_END_START_S = 0.5
        def hanging(number, control):
            if number == 1 and board.service.is_serving:
                stacks.show_on_signal()
                say("front 1 hangs as", os.getpid())
                time.sleep(1000.0)
            return front_end(number, control)
        run(run_front_end=hanging, watchdog_s=1.0)
    """) as running:
        running.until_ready()
        os.kill(running.pids()["front 1"], signal.SIGKILL)
        first = running.line("front 1 hangs as (.*)")[1]
        assert running.line("front 1 hangs as (.*)")[1] != first
        os.kill(running.popen.pid, signal.SIGTERM)
        running.rest()


def test_why_an_engine_cannot_be_had_again_is_told() -> None:
    with service("""
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        def failing(number, control, pinned):
            if number == 1 and board.service.is_serving:
                control.send((FromEngine.FAILED, pickle.dumps(ModelUnavailable("the file is gone"))))
                return 1
            return engine(number, control, pinned)
        run(failing)
    """) as running:
        running.until_ready()
        os.kill(running.pids()["engine 1"], signal.SIGKILL)
        running.line("two has ended with exit code 1: the file is gone")
        assert running.rest()[-1] == "over with 1"


def test_a_second_signal_ends_all_at_once() -> None:
    with service("""
        def slow(number, control):
            for message, _ in messages(control, board.front_ends[number], []):
                if message[0] == ToFrontEnd.DRAIN:
                    say("slow drains")
            return 1
        def listening(number, control):
            control.send((FromFrontEnd.LISTENING, 50051))
            return slow(number, control)
        run(run_front_end=listening)
    """) as running:
        running.line("ready")
        os.kill(running.popen.pid, signal.SIGTERM)
        running.line("slow drains")
        os.kill(running.popen.pid, signal.SIGTERM)
        assert "over with" not in " ".join(running.rest())
        assert running.popen.wait(PATIENCE_S) == 128 + signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children see the end of their channel")
def test_nothing_is_left_when_the_supervisor_is_killed() -> None:
    with service() as running:
        running.until_ready()
        os.kill(running.pids()["front 1"], signal.SIGSTOP)
        os.kill(running.popen.pid, signal.SIGKILL)
        running.rest()


def test_it_has_one_thread_and_imports_nothing_heavy() -> None:
    with service("""
        import threading
        heavy = {"grpc", "torch", "numpy", "numba", "uvloop", "asyncio"} & set(sys.modules)
        say("threads", threading.active_count(), len(os.listdir("/proc/self/task")), "heavy", *heavy)
    """) as running:
        assert running.rest() == ["threads 1 1 heavy"]

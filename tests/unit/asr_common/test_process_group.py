"""A parent of one thread and the processes that it forks: real ones, killed and stopped.

Each case is a program of its own, since a group takes over the signals of its process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

PATIENCE_S = 60.0
PRELUDE = """
import os, signal, sys, time
from asr_common.process_group import ProcessGroup, how_it_ended

group = ProcessGroup()

def until(done):
    news, all_news = None, []
    while not done(all_news):
        all_news.append(group.wait(30.0))
    return all_news

def messages(all_news):
    return [received.message for news in all_news for _, received in news.received]

def ended(all_news):
    return [child for news in all_news for child in news.ended]

def echo(control):
    import select
    while True:
        select.select([control], [], [])
        for message, descriptors in control.read():
            if message == ("end",):
                return 3
            control.send(message)
        if not control.is_open:
            return 4
"""


def run(program: str) -> list[str]:
    """Runs a program after the prelude; returns its lines."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_messages_go_both_ways_and_an_exit_code_comes_back() -> None:
    lines = run("""
        child = group.fork("asr-echo", echo)
        child.control.send(("hello", 1))
        print(messages(until(lambda news: messages(news))))
        with open(f"/proc/{child.pid}/comm") as comm:
            print(comm.read().strip())
        child.control.send(("end",))
        until(ended)
        print(child.exit_code, how_it_ended(child.exit_code), group.children)
        group.kill(child)
        group.close()
    """)
    assert lines == ["[('hello', 1)]", "asr-echo", "3 with exit code 3 []"]


def test_a_child_that_is_killed_or_fails_is_told_with_its_last_words() -> None:
    lines = run("""
        def fail(control):
            control.send(("last words",))
            raise ValueError("a fault")
        failing = group.fork("asr-fails", fail)
        killed = group.fork("asr-killed", echo)
        os.kill(killed.pid, signal.SIGSTOP)
        group.kill(killed)
        news = until(lambda news: len(ended(news)) == 2)
        print(messages(news), failing.exit_code, killed.exit_code, how_it_ended(killed.exit_code))
        group.close()
    """)
    assert lines == ["[('last words',)] 1 -9 by signal 9 (SIGKILL)"]


def test_signals_are_told_to_the_parent_and_not_to_its_children() -> None:
    lines = run("""
        child = group.fork("asr-echo", echo)
        child.control.send(("ready",))
        until(messages)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(child.pid, number)
            os.kill(os.getpid(), number)
        told = []
        while len(told) < 2:
            told += group.wait(30.0).signals
        child.control.send(("still here",))
        print(sorted(told), messages(until(messages)))
        group.close()
        signal.signal(signal.SIGTERM, lambda *_: print("mine again"))
        os.kill(os.getpid(), signal.SIGTERM)
    """)
    assert lines == ["[2, 15] [('still here',)]", "mine again"]


def test_a_child_has_no_descriptor_of_its_parent_or_of_its_siblings() -> None:
    lines = run("""
        import socket
        mine, other = socket.socketpair()
        group.watch(mine.fileno())
        group.keep_private(other.fileno())
        def count(control):
            control.send((sorted(map(int, os.listdir("/proc/self/fd"))), control.fileno()))
            return 0
        first = group.fork("asr-echo", echo)
        group.fork("asr-count", count)
        ((open_there, control),) = messages(until(messages))
        # Standard ones, its channel, and the listing of the folder itself.
        print(len(set(open_there) - {0, 1, 2, control}))
        other.send(b"x")
        print(group.wait(30.0).readable == [mine.fileno()])
        group.close()
    """)
    assert lines == ["1", "True"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children see the end of their channel")
def test_nothing_is_left_when_the_parent_is_killed() -> None:
    program = PRELUDE + textwrap.dedent("""
        children = [group.fork(f"asr-{number}", echo) for number in range(3)]
        # It answers once it is tied to its parent's life, as it is before anything else.
        children[0].control.send(("up",))
        until(messages)
        os.kill(children[0].pid, signal.SIGSTOP)
        print(*[child.pid for child in children], flush=True)
        time.sleep(1000)
    """)
    # Children have its output open too: it ends when the last of them has.
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert len(parent.stdout.readline().split()) == 3
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.communicate(timeout=PATIENCE_S)[0] == ""


def test_closing_the_group_ends_what_is_left() -> None:
    lines = run("""
        child = group.fork("asr-echo", echo)
        group.close()
        try:
            os.kill(child.pid, 0)
        except ProcessLookupError:
            print("gone")
    """)
    assert lines == ["gone"]


def test_what_waits_for_one_child_is_not_anothers() -> None:
    """Descriptors that a stopped child has not taken yet end with it, though others were forked meanwhile."""
    lines = run("""
        stopped = group.fork("asr-stopped", echo)
        group.kill(stopped, signal.SIGSTOP)
        while not stopped.control.has_unsent:
            stopped.control.send((bytes(1000),))
        reading, writing = os.pipe()
        group.keep_private(reading)
        stopped.control.send(("yours",), [writing])
        os.close(writing)
        other = group.fork("asr-other", echo)
        group.kill(stopped)
        until(ended)
        print(os.read(reading, 1))
        group.close()
    """)
    assert lines == ["b''"]

"""The demo as people run it, with the null model: real processes, real streams, real time."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from clients.demo_view import difference, word_errors
from tests.support.process import ROOT, clean_environment


def demo(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clients.demo", *arguments],
        cwd=ROOT,
        env=clean_environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_words_come_over_both_transports_and_everything_stops() -> None:
    # Settings of the shell are not the demo's: it must not meet a service that runs already.
    done = demo("--model", "null", ASR_GRPC_PORT=1, ASR_DECODER="nonsense")
    assert done.returncode == 0, done.stdout + done.stderr
    grpc, websocket = done.stdout.split("\nWebSocket, ")
    interim = re.compile(r"^  \w+ +… \S", re.MULTILINE)
    final = re.compile(r"^  \w+ += \S", re.MULTILINE)
    for part in (grpc, websocket):
        assert len(interim.findall(part)) > 3 * len(final.findall(part)) > 0
    assert "Latency in ms" in done.stdout
    assert "\x1b" not in done.stdout, "plain where there is no terminal"
    assert "Both stopped cleanly" in done.stdout.splitlines()[-1]


def test_a_service_that_does_not_start_fails_the_demo_with_its_log() -> None:
    done = demo("--model", "no/such-model.nemo")
    assert done.returncode == 1
    assert "--- log of the service" in done.stdout
    assert "no/such-model.nemo" in done.stdout
    assert "The demo failed: the service ended with 2" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("book a table", "book a table", 0),
        ("book a table", "", 3),
        ("book a table", "look a table", 1),
        ("book a table", "book table for two", 3),
        ("a b c d", "b c d", 1),
        ("a b", "x a b", 1),
    ],
)
def test_word_errors(said: str, heard: str, errors: int) -> None:
    assert word_errors(said, heard) == errors
    assert difference(said, heard).startswith("all" if errors == 0 else f"{errors} word errors")

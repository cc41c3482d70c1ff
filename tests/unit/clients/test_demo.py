"""The demo as people run it, with the null model and with its own: real processes, real streams, real time."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from clients.demo.clips import ASSETS, CLIPS
from clients.demo.view import difference, word_errors
from tests.support.process import PATIENCE_S, ROOT, ServerProcess, clean_environment


def demo(*arguments: str, timeout: float = 120, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clients.demo", *arguments],
        cwd=ROOT,
        env=clean_environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_words_come_over_both_transports_and_everything_stops() -> None:
    # Settings of the shell are not the demo's: it must not meet a service that runs already.
    argv = ["-m", "clients.demo", "--model", "null", "--stay"]
    with ServerProcess(argv, ASR_GRPC_PORT=1, ASR_DECODER="nonsense") as demo:
        page = demo.wait_line(r"speak into (http://localhost:\d+/) in a browser").group(1)
        with urllib.request.urlopen(page, timeout=PATIENCE_S) as answer:
            assert b"<title>Live transcript</title>" in answer.read()
        demo.signal(signal.SIGINT)
        assert demo.wait() == 0, demo.output
        output = demo.output
    grpc, websocket = output.split("\nWebSocket, ")
    interim = re.compile(r"^  \w+ +… \S", re.MULTILINE)
    final = re.compile(r"^  \w+ += \S", re.MULTILINE)
    for part in (grpc, websocket):
        assert len(interim.findall(part)) > 3 * len(final.findall(part)) > 0
    assert "Latency in ms" in output
    assert "\x1b" not in output, "plain where there is no terminal"
    assert "Both stopped cleanly" in output.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_the_bundled_model_hears_what_is_said_in_the_bundled_clips() -> None:
    """As `make demo`: the words over gRPC and WebSocket are the same, and those of clips.jsonl but for a fifth.

    Of the two people, one is heard right.
    """
    done = demo(timeout=480)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Both stopped cleanly" in done.stdout.splitlines()[-1]
    clips, people = (
        [json.loads(line) for line in (ASSETS / "clips" / name).read_text().splitlines()]
        for name in ("clips.jsonl", "people.jsonl")
    )
    said = {Path(entry["file"]).stem: entry["text"] for entry in clips[:CLIPS]}
    by_people = {Path(entry["file"]).stem: entry["text"] for entry in people}
    shown = re.compile(r"^  (\w+) +(gRPC|WebSocket) +(.*?)  \(.*\)$", re.MULTILINE)
    heard = {(clip, transport): text for clip, transport, text in shown.findall(done.stdout)}
    assert set(heard) == {
        (clip, transport) for clip in said | by_people for transport in ("gRPC", "WebSocket")
    }
    errors = 0
    for clip, text in said.items():
        assert heard[clip, "gRPC"] == heard[clip, "WebSocket"]
        errors += word_errors(text, heard[clip, "gRPC"])
    assert errors <= 0.2 * sum(len(text.split()) for text in said.values()), heard
    assert [heard[clip, "gRPC"] == heard[clip, "WebSocket"] for clip in by_people] == [True, True]
    assert heard["person1", "gRPC"] == by_people["person1"]
    assert heard["person2", "gRPC"] != by_people["person2"], "one that it mishears is shown too"
    assert done.stdout.count("(a person)") == 2 and "mishears many people" in done.stdout


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

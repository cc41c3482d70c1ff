"""Files by the transcriber against real services: the words of `Recognize`, each file by itself, none half-written."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
import soundfile
import soxr
from asr.v1 import asr_pb2_grpc

from clients.wav import read_wav
from tests.support.process import PATIENCE_S, ROOT, AsrService, clean_environment, run_python
from tests.support.rpc import Stub, config, transcribe, until_active

CLIPS = ROOT / "asr_service/assets/clips"


def clip(number: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    samples, rate = soundfile.read(CLIPS / f"clip{number}.wav", dtype="int16")
    assert rate == 16_000
    return samples  # type: ignore[no-any-return]


def run(service: AsrService, *argv: object) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "clients.transcribe", "--target", service.target, *argv)


def started(target: str, *argv: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "clients.transcribe", "--target", target, *map(str, argv)]
    return subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stderr=subprocess.PIPE, text=True)


def line_with(process: subprocess.Popen[str], words: str) -> str:
    assert process.stderr
    return next(line for line in process.stderr if words in line)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@asynccontextmanager
async def connected(target: str) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(target) as channel:
        yield asr_pb2_grpc.SpeechServiceStub(channel)


@pytest.fixture(scope="module")
def demo(compiled: None) -> Iterator[AsrService]:
    settings = {"ASR_MODEL": "demo", "ASR_MAX_STREAMS": 8, "ASR_THREADS": 1, "ASR_MAX_LOAD": 0}
    with AsrService(**settings, wait=False) as service:
        service.wait_ready(PATIENCE_S)
        yield service


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings of different rates, forms and channels, and what is none."""
    (tmp_path / "one.wav").write_bytes((CLIPS / "clip1.wav").read_bytes())
    studio = soxr.resample(clip(2), 16_000, 44_100)
    soundfile.write(tmp_path / "two.flac", np.stack([studio, studio], axis=1), 44_100)
    soundfile.write(tmp_path / "three.ogg", soxr.resample(clip(3), 16_000, 24_000), 24_000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF, but no more than that")
    return tmp_path


async def test_files_have_the_words_of_recognize_and_a_broken_one_fails_alone(
    demo: AsrService, folder: Path
) -> None:
    good = [folder / name for name in ("one.wav", "two.flac", "three.ogg")]
    formats = ["--text", "--srt", "--vtt", "--json"]
    done = run(demo, *good, folder / "broken.wav", folder / "missing.wav", *formats)
    assert done.returncode == 1, done.stderr
    assert "2 of 5 failed:\n" in done.stderr
    assert f"  {folder / 'broken.wav'}: not an audio file" in done.stderr
    assert f"  {folder / 'missing.wav'}: no such file" in done.stderr
    async with connected(demo.target) as stub:
        for path in good:
            said = await transcribe(stub, read_wav(path), endpointing={})
            assert len(said.split()) > 4
            lines = path.with_suffix(".txt").read_text().splitlines()
            assert " ".join(lines) == said
            written = json.loads(path.with_suffix(".json").read_text())
            assert (written["file"], written["text"]) == (path.name, said)
            words = [word for final in written["finals"] for word in final["words"]]
            assert " ".join(word["word"] for word in words) == said
            assert all(0 <= word["confidence"] <= 1 for word in words)
            assert [final["text"] for final in written["finals"]] == lines
            blocks = [block.split("\n", 2) for block in path.with_suffix(".srt").read_text().split("\n\n")]
            assert " ".join(" ".join(text.split()) for _, _, text in blocks) == said
            assert path.with_suffix(".vtt").read_text().startswith("WEBVTT\n\n00:00:0")
    assert len(names(folder)) == 4 + 3 * len(formats)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_that_fails_in_a_way_nobody_has_foreseen_fails_alone(
    service: AsrService, folder: Path
) -> None:
    """JSON cannot hold a name that is no text; the files that go on beside it, and those behind it, are written."""
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/odd\xff.wav"))
    odd.write_bytes((folder / "one.wav").read_bytes())
    good = [folder / name for name in ("one.wav", "two.flac", "three.ogg")]
    done = run(service, good[0], odd, *good[1:], "--json", "--jobs", 2)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "1 of 4 failed:\n" in done.stderr
    assert f"  {folder}/odd\\udcff.wav: UnicodeEncodeError: " in done.stderr.splitlines()[-1]
    assert {path.name for path in folder.glob("*.json")} == {"one.json", "two.json", "three.json"}


def test_a_second_run_does_what_is_left(demo: AsrService, folder: Path) -> None:
    out = folder / "texts" / "today"
    good = [folder / name for name in ("one.wav", "two.flac", "three.ogg")]
    assert run(demo, *good[:2], "--out", out).returncode == 0
    before = {path: path.stat() for path in out.iterdir()}
    assert {path.name for path in before} == {"one.txt", "two.txt"}
    done = run(demo, *good, "--out", out)
    assert (done.returncode, "2 of 3 done already" in done.stderr) == (0, True), done.stderr
    assert "three.txt" in done.stderr and "one.txt" not in done.stderr
    assert {path: path.stat() for path in before} == before
    # All done, and none of them again.
    done = run(demo, *good, "--out", out)
    assert (done.returncode, done.stderr) == (0, "3 of 3 done already (--force writes them anew)\n")

    # A recording that is newer than its transcript: somebody may have written that one.
    recorded = (out / "one.txt").stat().st_mtime_ns + 10**9
    os.utime(good[0], ns=(recorded, recorded))
    done = run(demo, *good, "--out", out)
    assert done.returncode == 1
    assert f"{out / 'one.txt'} is older than the recording; --force writes it anew" in done.stderr
    assert run(demo, good[0], "--out", out, "--force").returncode == 0
    assert (out / "one.txt").stat().st_ino != before[out / "one.txt"].st_ino


async def test_channels_are_mixed_or_transcribed_each(demo: AsrService, tmp_path: Path) -> None:
    first, second = clip(1), clip(5)
    both = np.zeros((max(len(first), len(second)), 2), np.int16)
    both[: len(first), 0], both[: len(second), 1] = first, second
    call = tmp_path / "call.v2.wav"
    soundfile.write(call, both, 16_000)
    done = run(demo, call, tmp_path / "call.v2.wav", "--channels", "separate", "--text", "--json")
    assert done.returncode == 0, done.stderr
    written = {"call.v2.1.txt", "call.v2.2.txt", "call.v2.1.json", "call.v2.2.json"}
    assert names(tmp_path) == {"call.v2.wav"} | written
    async with connected(demo.target) as stub:
        for number in (1, 2):
            pcm = both[:, number - 1].tobytes()
            said = await transcribe(stub, pcm, endpointing={})
            assert " ".join((tmp_path / f"call.v2.{number}.txt").read_text().split()) == said
            assert json.loads((tmp_path / f"call.v2.{number}.json").read_text())["channel"] == number
        assert run(demo, call).returncode == 0
        said = await transcribe(stub, read_wav(call), endpointing={})
        assert " ".join((tmp_path / "call.v2.txt").read_text().split()) == said
    assert "1 of 1 done already" in run(demo, call, "--channels", "separate").stderr
    soundfile.write(tmp_path / "many.wav", np.zeros((16_000, 3), np.int16), 16_000)
    done = run(demo, tmp_path / "many.wav", "--channels", "separate")
    assert done.returncode == 1
    assert "has 3 channels, and at most 2 can be transcribed separately" in done.stderr


async def test_a_full_service_is_waited_for(folder: Path) -> None:
    with AsrService(ASR_MAX_STREAMS=1, ASR_MAX_LOAD=0) as service:
        async with connected(service.target) as stub:
            held = stub.Recognize()
            await held.write(config())
            await held.initial_metadata()
            with started(service.target, folder / "one.wav", folder / "two.flac", "--jobs", 2) as process:
                assert "RESOURCE_EXHAUSTED" in line_with(process, "waits:")
                held.cancel()
                _, told = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, told
            expected = await transcribe(stub, read_wav(folder / "one.wav"), endpointing={})
            assert " ".join((folder / "one.txt").read_text().split()) == expected
            # Patience has an end, and what the service will never take has none.
            held = stub.Recognize()
            await held.write(config())
            await held.initial_metadata()
            done = run(service, folder / "three.ogg", "--patience", 0)
            assert (done.returncode, "given up after" in done.stderr) == (1, True), done.stderr
            held.cancel()
            await until_active(stub, 0)
        done = run(service, folder / "three.ogg", "--endpoint-ms", 5)
        assert done.returncode == 1
        assert "INVALID_ARGUMENT: config.endpointing.trailing_silence_ms is 5" in done.stderr
        assert not (folder / "three.txt").exists()


async def test_a_file_goes_on_with_the_service_that_follows_a_drained_one(tmp_path: Path) -> None:
    """The stream of a long file is cut off by a drain; the file is begun again once somebody listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = long_recording(tmp_path)
    with AsrService(ASR_GRPC_PORT=port, ASR_DRAIN_S=0) as first:
        process = started(first.target, path, "--json")
        async with connected(first.target) as stub:
            await until_active(stub, 1)
        first.signal()
        assert first.wait(PATIENCE_S) == 0
    with process:
        line_with(process, "waits:")
        with AsrService(ASR_GRPC_PORT=port) as second:
            assert second.target == f"127.0.0.1:{port}"
            _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told
    assert json.loads(path.with_suffix(".json").read_text())["audio_ms"] == LONG_S * 1000


LONG_S = 1_200


def long_recording(folder: Path, seconds: int = LONG_S) -> Path:
    """Twenty minutes, which take seconds, or more."""
    path = folder / "long.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        for _ in range(seconds // 60):
            file.write(np.zeros(60 * 16_000, np.int16))
    return path


async def test_nothing_is_left_behind_where_it_is_stopped(service: AsrService, tmp_path: Path) -> None:
    # Long enough not to be done before it is stopped.
    path = long_recording(tmp_path, 6 * LONG_S)
    async with connected(service.target) as stub:
        with started(service.target, path, "--text", "--srt") as process:
            await until_active(stub, 1)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, told) == (130, "stopped; what is done stays, and run again it goes on\n")
        assert names(tmp_path) == {"long.flac"}
        await until_active(stub, 0)


def test_a_terminal_shows_bars_and_keeps_a_line_for_each_file(service: AsrService, folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "clients.transcribe",
        "--target",
        service.target,
        str(folder / "one.wav"),
    ]
    environment = clean_environment(TERM="xterm-256color", COLUMNS=200)
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:
            # A terminal whose other end is closed.
            pass
        os.close(ours)
        assert process.wait(PATIENCE_S) == 0
    assert b"1 file" in shown and "━".encode() in shown
    assert f"{folder / 'one.txt'}".encode() in shown


def test_what_cannot_be_asked_for_is_said_before_anything_runs(service: AsrService, folder: Path) -> None:
    (folder / "one.flac").write_bytes((folder / "two.flac").read_bytes())
    for argv, code, says in (
        ([folder / "one.wav", folder / "one.flac"], 2, "would both be written to"),
        ([folder / "one.wav", "--jobs", 0], 2, "--jobs should be 1 or more"),
        ([folder / "one.wav", "--out", folder / "two.flac"], 2, "--out"),
        ([folder / "one.wav", "--target", "127.0.0.1:9"], 1, "no gRPC server answers there"),
        ([folder], 1, "no such file"),
    ):
        done = run(service, *argv)
        assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (code, True, False), (
            done.stderr
        )
    assert not list(folder.glob("*.txt"))

"""The command-line clients against a real service: what they print, and what they say when something is wrong."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clients.loadgen.plan import Plan
from clients.loadgen.streams import GrpcRunner, run_streams
from clients.pacing import packets
from testbed import grpc_frames as frames
from tests.support.audio import cut, speechlike
from tests.support.process import AsrService, run_python
from tests.support.rpc import Stub, audio, config, finalize, talk, text

UNREACHABLE = "127.0.0.1:9"  # discard: nobody listens there


def client(module: str, *argv: object) -> subprocess.CompletedProcess[str]:
    """Runs a client to its end."""
    return run_python("-m", f"clients.{module}", *map(str, argv))


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "hello.wav"
    soundfile.write(path, np.frombuffer(speechlike(2.0, seed=5), "<i2"), 16_000, subtype="PCM_16")
    return path


def test_file_client(service: AsrService, wav: Path) -> None:
    """Interims grow line by line, then the final with its words; the exit code is 0."""
    done = client("grpc_client_wav", wav, "--target", service.target, "--fast", "--words")
    assert done.returncode == 0, done.stderr
    interims = [line.removeprefix("  ... ") for line in done.stdout.splitlines() if line.startswith("  ... ")]
    (final,) = [line for line in done.stdout.splitlines() if line.endswith("[end_of_stream]")]
    text = final.removesuffix("  [end_of_stream]")
    assert interims
    assert text.startswith(interims[-1])
    words = [
        line.split()
        for line in done.stdout.splitlines()
        if line.startswith("    ") and line.split()[0][0].isdigit()
    ]
    assert [word[3] for word in words] == text.split()


def test_file_client_in_real_time(service: AsrService, wav: Path) -> None:
    done = client("grpc_client_wav", wav, "--target", service.target, "--sid", "call-1", "--endpoint-ms", 300)
    assert done.returncode == 0, done.stderr
    assert "2.0 s of audio; interims" in done.stderr


def test_other_rates_and_channels(service: AsrService, wav: Path, tmp_path: Path) -> None:
    """The same words from stereo; words, too, from a float file at another rate."""
    mono, rate = soundfile.read(wav, dtype="int16")
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.stack([mono, mono], axis=1), rate, subtype="PCM_16")
    studio = tmp_path / "studio.flac"
    soundfile.write(studio, np.repeat(mono, 3), 48_000)
    said = [
        client("grpc_client_wav", path, "--target", service.target, "--fast").stdout.splitlines()[-1]
        for path in (wav, stereo, studio)
    ]
    assert said[0] == said[1]
    assert len(said[2].split()) > 3


def test_file_client_complains_in_one_line(service: AsrService, wav: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.wav"
    text.write_text("these are notes")
    empty = tmp_path / "empty.wav"
    empty.touch()
    cases = {
        (tmp_path / "missing.wav", service.target): (2, "no such file"),
        (tmp_path, service.target): (2, "no such file"),
        (text, service.target): (2, "not an audio file"),
        (empty, service.target): (2, "not an audio file"),
        (wav, UNREACHABLE): (1, "no gRPC server answers there"),
    }
    for (path, target), (code, why) in cases.items():
        done = client("grpc_client_wav", path, "--target", target, "--fast")
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert why in done.stderr


def test_file_client_tells_what_the_service_says(service: AsrService, wav: Path) -> None:
    done = client("grpc_client_wav", wav, "--target", service.target, "--endpoint-ms", 5)
    assert done.returncode == 1
    assert "INVALID_ARGUMENT: config.endpointing.trailing_silence_ms is 5" in done.stderr
    assert done.stderr.count("\n") == 1


def test_load_generator(service: AsrService, tmp_path: Path) -> None:
    """Its figures add up; streams beyond what the service has are told by code."""
    path = tmp_path / "load.json"
    options = [
        "--grpc",
        service.target,
        "--duration",
        2,
        "--ramp",
        0.2,
        "--finalize-every",
        0.5,
        # Whether streams keep up is the machine's business.
        "--limit-ms",
        60_000,
        "--json",
        path,
    ]
    done = client("loadgen", "--streams", 8, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(path.read_text())
    assert report["outcomes"] == {"ok": 8}
    assert (report["streams"], report["sustained"]) == (8, 8)
    assert report["packets"] == 8 * 100
    assert report["audio_s"] == 16
    assert report["interims"] > 0
    assert (
        set(report["interim_latency_ms"]) == set(report["final_latency_ms"]) == {"p50", "p95", "p99", "max"}
    )

    done = client("loadgen", "--streams", 20, *options)
    assert done.returncode == 1
    report = json.loads(path.read_text())
    assert report["outcomes"] == {"ok": 16, "RESOURCE_EXHAUSTED": 4}
    assert report["sustained"] == 16
    assert "all 16 streams are taken" in report["error_details"]["RESOURCE_EXHAUSTED"]


def test_load_generator_finds_the_most(service: AsrService, tmp_path: Path) -> None:
    path = tmp_path / "load.json"
    options = ["--grpc", service.target, "--duration", 1, "--ramp", 0.1, "--limit-ms", 60_000, "--json", path]
    assert client("loadgen", "--find-max", "--streams", 6, *options).returncode == 0
    assert json.loads(path.read_text())["max_streams"] == 16


def test_load_generator_complains_in_one_line(tmp_path: Path) -> None:
    for where, says in (
        (["--grpc", UNREACHABLE], "nobody answers there"),
        (["--ws", f"ws://{UNREACHABLE}"], "cannot connect"),
    ):
        done = client("loadgen", *where)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert says in done.stderr
    done = client("loadgen", "--wav", tmp_path / "missing.wav")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_load_generator_knows_before_the_run_whether_it_can_write(
    service: AsrService, tmp_path: Path
) -> None:
    """A folder that is missing is made; what cannot be a folder is an argument that cannot be used."""
    path = tmp_path / "runs" / "today" / "load.json"
    options = ["--grpc", service.target, "--streams", 1, "--duration", 0.2, "--ramp", 0, "--json"]
    assert client("loadgen", *options, path).returncode == 0
    assert json.loads(path.read_text())["outcomes"] == {"ok": 1}
    for bad in (path / "load.json", path.parent):
        done = client("loadgen", *options, bad)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"--json {bad}: " in done.stderr.splitlines()[-1]


async def test_load_generator_sends_what_it_claims(service: AsrService, stub: Stub) -> None:
    """Audio that is no multiple of a packet: every packet is a whole one, so that none is late before it is sent."""
    pcm = speechlike(0.51, seed=4)  # 25 packets and a half
    plan = Plan.of(pcm, 20, 2.08)
    runner = GrpcRunner(service.target, plan)
    await runner.connect(10)
    try:
        (heard,) = await run_streams(runner, plan, 1, 0, lambda _: None)
    finally:
        await runner.close()
    assert (len(heard.sent), heard.bytes) == (104, round(2.08 * 32_000))
    expected = text(await talk(stub, [config(), *map(audio, [pcm + bytes(320)] * 4)]))
    assert heard.text.split() == expected.split()
    (first, second) = Plan.of(pcm[:640], 15.01, 1).packets
    assert len(first) == len(second) == 480, "whole samples"
    assert Plan.of(pcm, 15.01, 1).packet_ms == 15


async def test_frames_of_the_benchmark_are_grpc(service: AsrService, stub: Stub) -> None:
    """Streams from HTTP/2 frames made in advance hear what a gRPC client hears, and are refused as it is."""
    pcm = speechlike(1.0, seed=9)
    plan = Plan(tuple(packets(pcm, 16_000, 20)), 20, 1.0, finalize_every_s=0.5)
    heard = await frames.run_streams(service.target, plan, 20, ramp_s=0.1)
    requests = [
        config(),
        *map(audio, cut(pcm[:16_000], 640)),
        finalize(),
        *map(audio, cut(pcm[16_000:], 640)),
        finalize(),
    ]
    expected = text(await talk(stub, requests)).split()
    ok = [one for one in heard if one.outcome == "ok"]
    assert len(ok) == 16
    assert all(one.text.split() == expected for one in ok)
    assert all(len(one.finals) == 3 for one in ok)
    assert {one.outcome for one in heard} == {"ok", "status 8"}

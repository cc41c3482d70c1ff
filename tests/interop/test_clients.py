"""Other people's clients, as published, against a real service: each has to hear what `Recognize` says.

`make interop` builds their environments (build/interop) and runs this, `make interop-table` several times over. Without
them only the small ones are made and run; the frameworks are skipped. What was measured is left in
build/interop/report.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
import wave
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
import soxr
from asr.v1 import asr_pb2_grpc

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from asr_service import __version__
from tests.interop import environments
from tests.interop.table import REPORT
from tests.support.audio import cut, silence, speechlike
from tests.support.bridge import Bridge
from tests.support.process import PATIENCE_S, ROOT, AsrService, clean_environment
from tests.support.rpc import Stub, audio, config, finalize, transcribe

DEMO = ROOT / "asr_service" / "assets" / "demo.nemo"
CLIPS = ROOT / "asr_service" / "assets" / "clips"
DRIVERS = Path(__file__).parent / "drivers"
MODEL = "demo" if DEMO.exists() else "null"
ROUNDS = int(os.environ.get("INTEROP_ROUNDS", "1"))
"""How often a client is driven that tells how long it waits: a percentile needs more than a few."""
PAUSE_S = 1.6
"""Silence after the speech where the client waits for an endpoint: 320 or 800 ms, and what the model sees later."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Case:
    """How one client is driven."""

    environment: str
    driver: str
    mode: str
    what: str
    pause_s: float = 0.0
    waits: bool = True
    over_bridge: bool = False
    rate: int = 16_000


CASES = [
    Case("riva", "riva_client", "live", "ASRService streaming, live packets, words"),
    Case(
        "riva",
        "riva_client",
        "file",
        "AudioChunkFileIterator with WAV header, stop_history 320",
        PAUSE_S,
        waits=False,
    ),
    Case("riva", "riva_client", "printed", "print_streaming", PAUSE_S, waits=False),
    Case("riva", "riva_client", "offline", "ASRService.offline_recognize, WAV file, words", waits=False),
    Case("livekit", "livekit_plugin", "live", "STT.stream, live frames, words, end_input"),
    Case(
        "pipecat",
        "pipecat_service",
        "live",
        "NvidiaSTTService, live frames, stop_history 320",
        PAUSE_S,
    ),
    Case("pipecat", "pipecat_service", "segmented", "NvidiaSegmentedSTTService, unary calls", PAUSE_S),
    Case(
        "deepgram",
        "deepgram_sdk",
        "live",
        "listen.v1.connect, events in a thread, words, KeepAlive, CloseStream",
        over_bridge=True,
    ),
    Case(
        "deepgram",
        "deepgram_sdk",
        "live-async",
        "AsyncDeepgramClient listen.v1.connect, words, CloseStream",
        over_bridge=True,
    ),
    Case(
        "deepgram",
        "deepgram_sdk",
        "file",
        "listen.v1.media.transcribe_file, WAV file, words, utterances",
        waits=False,
        over_bridge=True,
    ),
    Case(
        "openai",
        "openai_sdk",
        "file",
        "audio.transcriptions.create, WAV file: verbose_json with words, stream=True, srt",
        waits=False,
        over_bridge=True,
    ),
    Case(
        "openai",
        "openai_sdk",
        "commits",
        "realtime.connect, PCM of 24 kHz, deltas, input_audio_buffer.commit",
        over_bridge=True,
        rate=24_000,
    ),
    Case(
        "openai",
        "openai_sdk",
        "turns",
        "realtime.connect, PCM of 24 kHz, deltas, server_vad of 300 ms",
        PAUSE_S,
        over_bridge=True,
        rate=24_000,
    ),
    Case(
        "livekit",
        "livekit_bridge",
        "deepgram-live",
        "STT.stream, live frames, words, end_input",
        over_bridge=True,
    ),
    Case("livekit", "livekit_bridge", "deepgram-file", "STT.recognize, words", waits=False, over_bridge=True),
    Case(
        "livekit",
        "livekit_bridge",
        "openai-live",
        "STT.stream, realtime, frames of 24 kHz, server_vad of 350 ms",
        PAUSE_S,
        over_bridge=True,
        rate=24_000,
    ),
    Case(
        "livekit",
        "livekit_bridge",
        "openai-file",
        "STT.recognize, verbose_json",
        waits=False,
        over_bridge=True,
    ),
    Case(
        "pipecat",
        "pipecat_bridge",
        "deepgram-live",
        "DeepgramSTTService, live frames",
        PAUSE_S,
        over_bridge=True,
    ),
    Case(
        "pipecat",
        "pipecat_bridge",
        "deepgram-finalize",
        "DeepgramSTTService, live frames, Finalize by a detector",
        over_bridge=True,
    ),
    Case(
        "pipecat",
        "pipecat_bridge",
        "openai-live",
        "OpenAIRealtimeSTTService, live frames of 24 kHz, commits by a detector",
        over_bridge=True,
        rate=24_000,
    ),
    Case("pipecat", "pipecat_bridge", "openai-file", "OpenAISTTService, segments", PAUSE_S, over_bridge=True),
]

SMALL = ("riva", "deepgram", "openai")
"""Environments that are made here if need be; the others only by `make interop`."""


@pytest.fixture(scope="module")
def speech() -> dict[str, bytes]:
    """16 kHz audio by name: the demo's clips if its model is there, else noise that the null model has words for."""
    if not DEMO.exists():
        return {f"noise-{n}": speechlike(3.2, seed=60 + n) for n in range(4)}
    return {path.stem: _pcm(path) for path in sorted(CLIPS.glob("*.wav"))}


def _pcm(path: Path) -> bytes:
    with wave.open(str(path), "rb") as file:
        assert file.getframerate() == 16_000
        return file.readframes(file.getnframes())


def resampled(pcm: bytes, rate: int) -> bytes:
    """16 kHz audio at another rate, for clients that send no other."""
    if rate == 16_000:
        return pcm
    return bytes(soxr.resample(np.frombuffer(pcm, "<i2"), 16_000, rate).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def service(compiled: None) -> Iterator[AsrService]:
    """A service with the demo model if it is there, else the null model."""
    # Few and small batches, no refusals: what is tested is what the clients hear, on however busy a machine.
    with AsrService(
        ASR_MODEL=MODEL,
        ASR_MAX_STREAMS=12,
        ASR_MAX_BATCH=6,
        ASR_MAX_LOAD=0,
        ASR_FINALIZE_SILENCE_MS="",
        wait=False,
    ) as process:
        process.wait_ready(PATIENCE_S)
        yield process


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Iterator[Bridge]:
    """The bridge to `service`."""
    with Bridge(service.target) as process:
        yield process


@pytest.fixture
async def stub(service: AsrService) -> AsyncIterator[Stub]:
    """A client of `service`."""
    async with grpc.aio.insecure_channel(service.target) as channel:
        yield asr_pb2_grpc.SpeechServiceStub(channel)


def environment(name: str) -> Path:
    """The interpreter of an environment; skips the test, with the reason, if there is none."""
    if name not in SMALL and not environments.is_built(name):
        pytest.skip(f"build/interop/{name} is not there: make interop builds it")
    try:
        return environments.build(name)
    except environments.NotBuilt as error:
        pytest.skip(f"build/interop/{name} could not be made: {error}")


def write(folder: Path, name: str, pcm: bytes, rate: int = 16_000) -> str:
    """A WAV file's path."""
    path = folder / f"{name}.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm)
    return str(path)


def note(key: str, **facts: Any) -> None:
    """Keeps what was measured."""
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report | {key: facts | {"model": MODEL}}, indent=1) + "\n")


def spread(waits: list[float]) -> dict[str, Any]:
    """Median and 95th percentile in ms."""
    if not waits:
        return {}
    p50, p95 = np.percentile(waits, [50, 95]) * 1000
    return {"waits": len(waits), "p50_ms": round(float(p50), 1), "p95_ms": round(float(p95), 1)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.driver}-{case.mode}")
async def test_a_client_hears_what_recognize_says(
    case: Case, service: AsrService, bridge: Bridge, stub: Stub, speech: dict[str, bytes], tmp_path: Path
) -> None:
    python = environment(case.environment)
    files = {
        name: resampled(pcm, case.rate) + silence(case.pause_s, case.rate) for name, pcm in speech.items()
    }
    expected = {name: await transcribe(stub, pcm, sample_rate_hertz=case.rate) for name, pcm in files.items()}
    assert all(expected.values())
    order = {
        "target": f"127.0.0.1:{bridge.port}" if case.over_bridge else service.target,
        "files": {name: write(tmp_path, name, pcm, case.rate) for name, pcm in files.items()},
        "expected": expected,
        "mode": case.mode,
        "rate": case.rate,
    }
    waits: list[float] = []
    for _ in range(ROUNDS if case.waits else 1):
        done = subprocess.run(  # noqa: ASYNC221 - nothing else runs on this loop
            [python, DRIVERS / f"{case.driver}.py"],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=300,
            env={**clean_environment(), "PYTHONPATH": ""},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        answer = json.loads(done.stdout)
        heard = {one["name"]: one for one in answer["heard"]}
        texts = {name: " ".join(one["finals"]) for name, one in heard.items()}
        waits += [one["waited_s"] for one in heard.values() if one["waited_s"] is not None]
        if texts != expected:
            break
    note(
        f"{case.driver}-{case.mode}",
        versions=answer["versions"],
        what=case.what,
        equal=texts == expected,
        files=len(files),
        **spread(waits),
    )
    assert texts == expected
    for one in heard.values():
        assert all(one["interims"]), "no empty transcripts"
        assert [word for word, _, _ in one["words"]] in ([], texts[one["name"]].split())
        assert all(start <= end for _, start, end in one["words"])


async def test_what_recognize_itself_takes(stub: Stub, speech: dict[str, bytes]) -> None:
    """Finalize to final over asr.v1, live, all files at once: what the other paths are compared with."""
    waits: list[float] = []

    async def speak(pcm: bytes) -> None:
        call = stub.Recognize()
        await call.write(config(interim_results=False))
        began = time.monotonic()
        for at, packet in enumerate(cut(pcm, 640), 1):
            await _until(began + at * 0.02)
            await call.write(audio(packet))
        asked = time.monotonic()
        await call.write(finalize("now"))
        response: Any = await call.read()
        waits.append(time.monotonic() - asked)
        assert response.result.finalize_tag == "now"
        call.cancel()

    for _ in range(ROUNDS):
        await asyncio.gather(*map(speak, speech.values()))
    note(
        "asr.v1",
        versions={"asr.v1": __version__},
        files=len(speech),
        what="Recognize, live packets, finalize",
        **spread(waits),
    )


def snippets(document: str) -> list[str]:
    """The programs in a document."""
    text = (ROOT / document).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def environment_of(snippet: str) -> str:
    """The environment that a snippet runs in, by what it imports; "" for our own stubs, which are tested elsewhere."""
    found = re.search(r"^(?:from|import) (riva|pipecat|livekit|deepgram|openai)\b", snippet, re.MULTILINE)
    return found[1] if found else ""


SNIPPETS = [
    (environment_of(snippet), snippet)
    for document in ("docs/interop.md", "docs/dialects.md", "README.md")
    for snippet in snippets(document)
    if environment_of(snippet)
]


@pytest.mark.parametrize(("name", "snippet"), SNIPPETS, ids=[name for name, _ in SNIPPETS])
def test_the_snippets_of_the_documents_run(
    name: str,
    snippet: str,
    service: AsrService,
    bridge: Bridge,
    speech: dict[str, bytes],
    tmp_path: Path,
) -> None:
    python = environment(name)
    write(tmp_path, "hello", next(iter(speech.values())))
    done = subprocess.run(
        [
            python,
            "-c",
            snippet.replace("localhost:50051", service.target).replace(
                "localhost:8080", f"127.0.0.1:{bridge.port}"
            ),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        env={**clean_environment(), "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "print" not in snippet or re.search(r"^(final )?\w+ \w", done.stdout, re.MULTILINE)


async def _until(when: float) -> None:
    await asyncio.sleep(max(0.0, when - time.monotonic()))

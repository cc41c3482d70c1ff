"""Clients of another stack, Node.js: `ws` through the bridge and `@grpc/grpc-js` to the service, the same exchange; and
the SDKs of Deepgram and OpenAI, as published, through the bridge.

`make interop` builds the environment; without it this is skipped.
"""

from __future__ import annotations

import json
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2_grpc

from asr_service.access.api_keys import new_key
from tests.interop import environments
from tests.support.audio import cut, speechlike
from tests.support.bridge import Bridge
from tests.support.certificates import Authority
from tests.support.process import AsrService, clean_environment
from tests.support.rpc import Stub, audio, config, finalize, finals, talk, transcribe

SCRIPTS = Path(__file__).parent / "node"
DOORS = {"grpc_client": "OK", "ws_client": 1000}
"""The drivers, and how each is told that its stream is over."""
PACKET = 640
SPEECH = {f"noise-{n}": speechlike(3.0, seed=80 + n) for n in range(3)}
MARKS = [40, 90]
"""Packets before which a final is asked for."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not environments.is_built("node"), reason="build/interop/node is not there: make interop builds it"
    ),
]


@pytest.fixture(scope="module")
def service() -> Iterator[AsrService]:
    with AsrService(ASR_MAX_STREAMS=8, ASR_MAX_LOAD=0) as process:
        yield process


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Iterator[Bridge]:
    with Bridge(service.target) as process:
        yield process


def drive(driver: str, order: dict[str, Any], folder: Path, **configs: dict[str, Any]) -> dict[str, Any]:
    """What the driver heard, by name of the file; `configs` has what it says first of each."""
    files = {}
    for name, first in configs.items():
        path = folder / f"{name}.pcm"
        path.write_bytes(SPEECH[name.replace("_", "-")])
        files[name] = {"path": str(path), "finalize": MARKS, "config": first}
    return run(driver, order | {"files": files})


def run(driver: str, order: dict[str, Any]) -> dict[str, Any]:
    """What the driver heard, by name of the file."""
    done = subprocess.run(
        [environments.node(), SCRIPTS / f"{driver}.cjs"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=120,
        env={**clean_environment(), "NODE_PATH": str(environments.BUILT / "node" / "node_modules")},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    assert all(answer["versions"].values())
    heard: dict[str, Any] = answer["heard"]
    return heard


async def python_hears(target: str, pcm: bytes) -> list[tuple[str, str]]:
    """Texts and tags of the finals that the stubs of this project get for the same exchange."""
    requests = [config()]
    for at, piece in enumerate(cut(pcm, PACKET)):
        requests += [finalize("now")] * (at in MARKS) + [audio(piece)]
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
        return [(final.text, final.finalize_tag) for final in finals(await talk(stub, requests))]


@pytest.mark.parametrize("live", [True, False], ids=["live", "at once"])
@pytest.mark.parametrize("driver", DOORS)
async def test_node_hears_what_python_hears(
    driver: str, live: bool, service: AsrService, bridge: Bridge, tmp_path: Path
) -> None:
    order = {"target": service.target, "bridge": bridge.url, "live": live}
    heard = drive(driver, order, tmp_path, noise_0={}, noise_1={}, noise_2={})
    for name, one in heard.items():
        expected = await python_hears(service.target, SPEECH[name.replace("_", "-")])
        assert len(expected) == len(MARKS) + 1
        assert list(zip(one["finals"], one["tags"], strict=True)) == expected
        assert (one["error"], one["close"]) == (None, DOORS[driver])
        assert one["interims"] > 0


@pytest.mark.parametrize(
    ("driver", "wrong", "code", "close"),
    [
        ("grpc_client", {"sample_rate_hertz": 7999}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        ("ws_client", {"sr": 7999}, "invalid_argument", 1008),
    ],
)
def test_node_is_told_what_is_wrong(
    driver: str,
    wrong: dict[str, Any],
    code: str,
    close: object,
    service: AsrService,
    bridge: Bridge,
    tmp_path: Path,
) -> None:
    order = {"target": service.target, "bridge": bridge.url, "live": True}
    one = drive(driver, order, tmp_path, noise_0=wrong)["noise_0"]
    assert (one["error"]["code"], one["close"], one["finals"]) == (code, close, [])
    assert "7999" in one["error"]["message"]


@pytest.mark.parametrize("driver", DOORS)
async def test_node_with_tls_and_a_key(driver: str, tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    cert, key = ca.issue("server")
    api_key, line = new_key("node")
    keys = tmp_path / "keys"
    keys.write_text(line)
    with (
        AsrService(ASR_TLS_CERT=cert, ASR_TLS_KEY=key, ASR_API_KEYS_FILE=keys, ASR_MAX_STREAMS=4) as service,
        Bridge(
            service.target, ASR_GRPC_CA=ca.cert, ASR_BRIDGE_TLS_CERT=cert, ASR_BRIDGE_TLS_KEY=key
        ) as bridge,
    ):
        order = {
            "target": f"localhost:{service.target.rpartition(':')[2]}",
            "bridge": f"wss://localhost:{bridge.port}",
            "ca": ca.cert.read_text(),
            "live": False,
        }
        right = {"headers": {"authorization": f"Bearer {api_key}"}}
        one = drive(driver, order | right, tmp_path, noise_0={})["noise_0"]
        assert (one["error"], len(one["finals"])) == (None, len(MARKS) + 1)
        one = drive(driver, order, tmp_path, noise_0={})["noise_0"]
        assert one["error"]["code"].lower() == "unauthenticated"


def wav(folder: Path, name: str, pcm: bytes) -> str:
    """A file's path."""
    path = folder / f"{name}.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(pcm)
    return str(path)


@pytest.mark.parametrize("live", [True, False], ids=["live", "at once"])
async def test_deepgrams_sdk_hears_what_python_hears(
    live: bool, service: AsrService, bridge: Bridge, tmp_path: Path
) -> None:
    heard = drive("deepgram_client", {"bridge": bridge.url, "live": live}, tmp_path, noise_0={}, noise_1={})
    for name, one in heard.items():
        expected = await python_hears(service.target, SPEECH[name.replace("_", "-")])
        assert " ".join(one["finals"]) == " ".join(text for text, _ in expected if text)
        assert (one["finalized"], one["close"]) == (len(MARKS), 1000)
        assert one["interims"] > 0 and {"Results", "SpeechStarted", "Metadata"} <= set(one["kinds"])


async def test_files_of_both_sdks(service: AsrService, bridge: Bridge, tmp_path: Path) -> None:
    pcm = SPEECH["noise-0"]
    async with grpc.aio.insecure_channel(service.target) as channel:
        expected = await transcribe(asr_pb2_grpc.SpeechServiceStub(channel), pcm)
    for driver in ("deepgram_client", "openai_client"):
        file = {"wav": wav(tmp_path, "noise", pcm), "config": {}}
        one = run(driver, {"bridge": bridge.url, "files": {"noise": file}})["noise"]
        assert one["finals"] == [expected] and " ".join(one["words"]) == expected
        assert one.get("deltas", expected) == expected
    file["config"] = {"diarize": True}
    one = run("deepgram_client", {"bridge": bridge.url, "files": {"noise": file}})["noise"]
    assert one["error"]["status"] == 400 and "diarize" in one["error"]["body"]["err_msg"]


async def test_openais_sdk_hears_what_python_hears(service: AsrService, tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    cert, key = ca.issue("server")
    pcm = speechlike(2.0, seed=83, rate=24_000)
    cuts = [cut(pcm, PACKET)[: MARKS[0]], cut(pcm, PACKET)[MARKS[0] :]]
    async with grpc.aio.insecure_channel(service.target) as channel:
        stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
        expected = [await transcribe(stub, b"".join(pieces), sample_rate_hertz=24_000) for pieces in cuts]
    path = tmp_path / "noise.pcm"
    path.write_bytes(pcm)
    with Bridge(service.target, ASR_BRIDGE_TLS_CERT=cert, ASR_BRIDGE_TLS_KEY=key) as secure:
        order = {
            "bridge": f"wss://localhost:{secure.port}",
            "ca": ca.cert.read_text(),
            "live": True,
            "files": {"noise": {"path": str(path), "finalize": MARKS[:1]}},
        }
        one = run("openai_client", order)["noise"]
    assert one["finals"] == expected and one["deltas"] == "".join(expected)
    assert {"session.created", "session.updated", "input_audio_buffer.committed"} <= set(one["kinds"])

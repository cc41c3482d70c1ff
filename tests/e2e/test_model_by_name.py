"""A stream asks for a model and a look-ahead, over both protocols and with the command line clients."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from asr.v1 import asr_pb2 as pb

from tests.support import rpc
from tests.support.audio import speechlike
from tests.support.bridge import Bridge, talk
from tests.support.process import PATIENCE_S, ROOT, AsrService, clean_environment

PCM = speechlike(1.0, seed=5)


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Iterator[Bridge]:
    with Bridge(service.target) as process:
        yield process


async def test_what_is_served_can_be_asked_for(stub: rpc.Stub) -> None:
    told = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
    (served,) = told.served
    assert (served.name, served.look_ahead_ms, served.chunk_ms) == ("null", 80, 160)
    assert list(served.att_context) == list(told.att_context) == [70, 1]
    assert list(served.devices) == ["cpu"]
    assert served.max_streams == told.max_streams
    text = await rpc.transcribe(stub, PCM)
    named = await rpc.transcribe(stub, PCM, model=served.name.upper(), look_ahead_ms=served.look_ahead_ms)
    assert text and named == text


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model", "demo", "is 'demo', which is not served; it should be null, or unset"),
        ("look_ahead_ms", 480, "is 480; it should be 80, or unset"),
    ],
)
async def test_what_is_not_served_is_refused_with_what_is(
    stub: rpc.Stub, bridge: Bridge, field: str, value: object, says: str
) -> None:
    error = await rpc.failure(stub, [rpc.config(**{field: value})])
    assert rpc.bad_fields(error) == [f"config.{field}"]
    assert error.details() == f"config.{field} {says}"
    heard = await talk(bridge, [json.dumps({"op": "init", "sid": "a", field: value})])
    assert (heard.code, heard.error["field"], heard.error["message"]) == (1008, field, f"{field} {says}")


@pytest.mark.parametrize(
    ("module", "door"),
    [
        ("grpc_client_wav", "gRPC"),
        ("ws_client_wav", "WebSocket"),
        ("mic", "gRPC"),
        ("mic", "WebSocket"),
        ("loadgen", "gRPC"),
        ("loadgen", "WebSocket"),
    ],
)
def test_the_command_line_clients_ask_for_a_model_and_a_look_ahead(
    service: AsrService, bridge: Bridge, module: str, door: str
) -> None:
    where = service.target if door == "gRPC" else bridge.url
    wav = ROOT / "asr_service/assets/clips/clip1.wav"
    arguments: dict[str, list[object]] = {
        "grpc_client_wav": [wav, "--fast", "--target", where],
        "ws_client_wav": [wav, where, "--fast"],
        "mic": ["-", "--to", where],
        "loadgen": [
            "--streams",
            2,
            "--duration",
            1,
            "--fast",
            "--ws" if door == "WebSocket" else "--grpc",
            where,
        ],
    }

    def run(*asked: str) -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, "-m", f"clients.{module}", *map(str, arguments[module]), *asked],
            cwd=ROOT,
            env=clean_environment(),
            input=PCM,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return ended.returncode, (ended.stdout + ended.stderr).decode()

    code, out = run("--model", "Null", "--look-ahead", "80")
    assert code == 0, out
    code, out = run("--look-ahead", "0")
    assert code == 1 and "should be 80" in " ".join(out.split()), out
    code, out = run("--model", "demo")
    assert code == 1 and "should be null" in " ".join(out.split()), out

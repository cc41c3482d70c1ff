"""Services behind HAProxy, nginx and Envoy, as docker/proxy configures them: drains, restarts."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from google.rpc import status_pb2

from testbed.processes import free_port
from tests.support.process import PATIENCE_S, ROOT, AsrService, ServerProcess
from tests.support.proxies import SHORT, Fleet, attempt, finished, fleet, opened
from tests.support.rpc import Stub, retry_after_s, transcribe
from tests.support.streams import speech

KINDS = pytest.mark.parametrize("kind", ["haproxy", "nginx", "envoy"])
LONG = speech(40.0, seed=51)
"""More than a megabyte, which is what nginx takes of a request unless told otherwise."""
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def told(error: grpc.aio.AioRpcError) -> grpc.StatusCode:
    """What the service said, if it did, or else what the client made of the proxy's answer.

    HAProxy resets a stream that is refused while its client still sends (https://github.com/haproxy/haproxy/issues/1219),
    and gRPC's core, which Python and C++ have, reports that as CANCELLED; the details that came before are still there.
    """
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            number = status_pb2.Status.FromString(value).code
            return next(code for code in grpc.StatusCode if code.value[0] == number)
    return error.code()


async def active(target: str) -> int:
    """Streams on one instance, asked of it directly."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
        return (await stub.GetServiceInfo(pb.GetServiceInfoRequest())).active_streams


async def one_on_each(stub: Stub, targets: list[str]) -> tuple[list[Any], int]:
    """Two open streams with half of the long recording, one on each instance; and which instance has the first.

    Envoy chooses between two that it draws by lot, which may be the same one twice: those that are too many end.
    """
    placed: dict[int, Any] = {}
    while len(placed) < 2:
        before = [await active(target) for target in targets]
        call = await opened(stub, LONG[:320_000])
        after = [await active(target) for target in targets]
        at = next(number for number in range(2) if after[number] > before[number])
        if at in placed:
            await finished(call, b"")
        else:
            placed[at] = call
    return list(placed.values()), next(iter(placed))


async def said(process: ServerProcess, pattern: str) -> None:
    """A line of its log, past or to come."""
    await asyncio.to_thread(process.wait_line, pattern)


@KINDS
async def test_streams_finish_and_newcomers_go_to_the_other(kind: str, tmp_path: Path) -> None:
    """One instance after the other gets SIGTERM, with a stream on each; the proxy stays without any, then has one."""
    with fleet(kind, tmp_path) as behind:
        behind.start_pair()
        async with grpc.aio.insecure_channel(behind.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected, short = await transcribe(stub, LONG), await transcribe(stub, SHORT)
            targets = [service.target for service in behind.services.values()]
            (one, two), first = await one_on_each(stub, targets)
            assert [await active(target) for target in targets] == [1, 1]

            behind.services[first].signal()
            await said(behind.services[first], "draining 1 streams")
            found = [await attempt(stub) for _ in range(6)]
            refused = [answer for answer in found if isinstance(answer, grpc.aio.AioRpcError)]
            assert {answer for answer in found if isinstance(answer, str)} <= {short}
            assert {told(error) for error in refused} <= {UNAVAILABLE}
            if kind == "haproxy":  # has asked for health by now, or soon
                await behind.said(rf"Server services/service-{first + 1} is DOWN, .* code: 503")
                assert [await attempt(stub) for _ in range(6)] == [short] * 6
            elif kind == "envoy":  # asks another instance instead of passing the refusal on
                assert found == [short] * 6
            else:  # asks nobody: every second is refused by the service itself
                assert len(refused) == 3
                assert all(retry_after_s(error) > 0 for error in refused)
            assert await finished(one, LONG[320_000:]) == expected
            assert await asyncio.to_thread(behind.services[first].wait) == 0
            assert [await attempt(stub) for _ in range(6)] == [short] * 6

            last = behind.services[1 - first]
            last.signal()
            await said(last, "draining 1 streams")
            for _ in range(4):
                error = await attempt(stub)
                assert isinstance(error, grpc.aio.AioRpcError)
                assert told(error) is UNAVAILABLE
            assert await finished(two, LONG[320_000:]) == expected
            assert await asyncio.to_thread(last.wait) == 0
            if kind == "haproxy":
                await behind.said("backend 'services' has no server available")
            for _ in range(4):
                error = await attempt(stub)
                assert isinstance(error, grpc.aio.AioRpcError)
                assert error.code() is UNAVAILABLE

            await asyncio.to_thread(behind.start_service, first)
            async with asyncio.timeout(PATIENCE_S):
                while await attempt(stub) != short:  # noqa: ASYNC110 - when the proxy finds out is its own affair
                    await asyncio.sleep(0.1)


def by_curl(target: str) -> dict[str, Any]:
    """The error of a stream of a client in Go, refused while it still sends."""
    packet = json.dumps({"audio": b64encode(bytes(3200)).decode()})
    done = subprocess.run(
        [
            Path(sys.executable).with_name("buf"),
            *("curl", "--protocol", "grpc", "--http2-prior-knowledge", "--schema", ROOT / "proto"),
            *("-d", "@-", f"http://{target}/asr.v1.SpeechService/Recognize"),
        ],
        input="\n".join(['{"config": {}}', *[packet] * 200]),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    error: dict[str, Any] = json.loads(done.stderr)
    return error


@KINDS
async def test_one_instance_alone(kind: str, tmp_path: Path) -> None:
    """UNAVAILABLE with the service's own words while it drains and of the proxy's making when it is gone."""
    with fleet(kind, tmp_path) as behind:
        service = behind.start_service(0)
        behind.start_proxy(
            {"inter 1s": "inter 60s"} if kind == "haproxy" else None
        )  # as long as it does not know
        async with grpc.aio.insecure_channel(behind.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, SHORT)
            held = await opened(stub, b"")
            service.signal()
            await said(service, "draining 1 streams")
            told = await asyncio.to_thread(by_curl, behind.target)
            assert (told["code"], told["message"]) == ("unavailable", "the service is draining")
            assert [detail["type"] for detail in told["details"]].count("google.rpc.RetryInfo") == 1
            assert await finished(held, SHORT) == expected
            assert await asyncio.to_thread(service.wait) == 0
            assert (await asyncio.to_thread(by_curl, behind.target))["code"] == "unavailable"
            error = await attempt(stub)
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() is UNAVAILABLE


def take_out(behind: Fleet, number: int) -> None:
    """Tells the proxy that an instance takes no newcomers."""
    if behind.kind == "haproxy":
        assert behind.command(f"set server services/service-{number + 1} state drain") == "\n"
    else:
        behind.reload({f"service-{number + 1}:50051 ": f"service-{number + 1}:50051 down "})


def put_back(behind: Fleet, number: int) -> None:
    """Tells the proxy that it takes them again."""
    if behind.kind == "haproxy":
        assert behind.command(f"set server services/service-{number + 1} state ready") == "\n"
    else:
        behind.reload()


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])  # Envoy need not be told: nobody is refused anyway
async def test_taken_out_before_it_is_stopped(kind: str, tmp_path: Path) -> None:
    """Both instances are restarted in turn; nobody is cut off, and nobody is refused."""
    with fleet(kind, tmp_path) as behind:
        behind.start_pair()
        async with grpc.aio.insecure_channel(behind.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, SHORT)
            for number in range(2):
                leaving, seen = behind.services[number], await behind.opened_on_service(number)
                held: list[Any] = []
                # Where the proxy places them is its own affair: one at least is to be on the instance that leaves.
                while len(held) < 2 or await behind.opened_on_service(number) == seen:
                    held.append(await opened(stub, SHORT[:8_000]))
                await asyncio.to_thread(take_out, behind, number)
                assert [await attempt(stub) for _ in range(4)] == [expected] * 4
                leaving.signal()
                await said(leaving, r"draining [1-9]\d* streams")
                assert [await attempt(stub) for _ in range(4)] == [expected] * 4
                assert [await finished(call, SHORT[8_000:]) for call in held] == [expected] * len(held)
                assert await asyncio.to_thread(leaving.wait) == 0
                await asyncio.to_thread(behind.start_service, number)
                await asyncio.to_thread(put_back, behind, number)
                await behind.until_in(f"services/service-{number + 1}")
                assert [await attempt(stub) for _ in range(4)] == [expected] * 4


def test_checks_that_hang_up_leave_nothing_in_the_log(tmp_path: Path) -> None:
    """HAProxy resets the connection of a check as soon as it has read the status."""
    with AsrService(ASR_METRICS_PORT=(port := free_port()), ASR_MAX_STREAMS=1) as service:
        for _ in range(4):  # as many as may wait to be accepted
            with socket.create_connection(("127.0.0.1", port)) as check:
                check.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                check.sendall(b"GET /healthz HTTP/1.0\r\n")
        assert service.stop() == 0
        assert "Traceback" not in service.output

"""What Envoy alone does: refusals are tried elsewhere, TLS, clients that vanish are found, its own end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from pathlib import Path
from typing import Any

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from websockets.asyncio.client import connect

from testbed.processes import children
from tests.support.audio import FULL_SCALE, cut
from tests.support.bridge import CLOSE, INIT, listen
from tests.support.certificates import Authority
from tests.support.process import PATIENCE_S, ServerProcess
from tests.support.proxies import SHORT, Fleet, attempt, finished, fleet, opened
from tests.support.rpc import Stub, audio, config, retry_after_s, transcribe
from tests.support.streams import speech

LONG = speech(40.0, seed=54)
UNAWARE = {"interval: 0.2s": "interval: 60s"}
"""Envoy asks for health once and then not within the test: what it finds out, refusals tell it."""
RETRIES = "cluster.services.upstream_rq_retry"


def channel(target: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


async def all_admitted(behind: Fleet) -> list[int]:
    """The same of both."""
    return [await behind.opened_on_service(number) for number in range(2)]


async def on(behind: Fleet, stub: Stub, number: int) -> Any:
    """An open stream on this instance; those that come to the other one end."""
    while True:
        before = await behind.opened_on_service(number)
        call = await opened(stub, SHORT[:8_000])
        if await behind.opened_on_service(number) > before:
            return call
        await finished(call, b"")


async def outcome(call: Any) -> grpc.StatusCode:
    """The status of a stream that says nothing more, once it was admitted or refused."""
    if any(name == "x-stream-id" for name, _ in await call.initial_metadata()):
        await call.done_writing()
    return await ended(call)


async def ended(call: Any) -> grpc.StatusCode:
    """The status of a stream that ends by itself; what it was told before has to be read first."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for _ in call:
            pass
    code: grpc.StatusCode = await call.code()
    return code


async def test_nobody_is_refused_while_one_of_two_drains(tmp_path: Path) -> None:
    """Fifty at the same time, and six who send forty seconds of audio without waiting to be admitted."""
    with fleet("envoy", tmp_path) as behind:
        for number in range(2):
            behind.start_service(number, ASR_MAX_STREAMS=64)
        behind.start_proxy(UNAWARE)
        async with channel(behind.target) as connection:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(connection)
            short, long = await transcribe(stub, SHORT), await transcribe(stub, LONG)
            held = await on(behind, stub, 0)
            leaving = behind.services[0]
            leaving.signal()
            await asyncio.to_thread(leaving.wait_line, "draining 1 streams")
            before = await all_admitted(behind)
            assert await asyncio.gather(*(attempt(stub) for _ in range(50))) == [short] * 50
            assert await asyncio.gather(*(transcribe(stub, LONG) for _ in range(6))) == [long] * 6
            assert behind.admin.counter(RETRIES) > 0
            assert await all_admitted(behind) == [before[0], before[1] + 56]
            assert await finished(held, SHORT[8_000:]) == short
            assert await asyncio.to_thread(leaving.wait) == 0
            # It is gone, and Envoy still takes it for healthy: what cannot connect is tried on the other.
            assert await asyncio.gather(*(attempt(stub) for _ in range(20))) == [short] * 20


async def test_callers_are_placed_beside_a_full_instance(tmp_path: Path) -> None:
    """Also while the full one has fewer streams; where all are full, the refusal says when to come back."""
    with fleet("envoy", tmp_path) as behind:
        behind.start_service(0, ASR_MAX_STREAMS=1)
        behind.start_service(1, ASR_MAX_STREAMS=22)
        behind.start_proxy()
        async with channel(behind.target) as connection:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(connection)
            expected = await transcribe(stub, SHORT)
            held = [await on(behind, stub, 0), await on(behind, stub, 1), await on(behind, stub, 1)]
            assert await asyncio.gather(*(attempt(stub) for _ in range(20))) == [expected] * 20
            held += [await opened(stub, SHORT[:8_000]) for _ in range(20)]
            tried = behind.admin.counter(RETRIES)
            error = await attempt(stub)
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            # Five more tries; `attempt` comes again where it was too late to hear of its refusal.
            assert (behind.admin.counter(RETRIES) - tried) in (5, 10, 15)
            assert retry_after_s(error) > 0
            assert await asyncio.gather(*(finished(call, SHORT[8_000:]) for call in held)) == [expected] * 23


async def test_what_was_admitted_is_never_tried_again(tmp_path: Path) -> None:
    """UNAVAILABLE of an engine that has died, an instance that is killed, and one that is killed before it answers."""
    with fleet("envoy", tmp_path) as behind:
        for number in range(2):
            behind.start_service(number, FAULT="die", RESTART_S=0.1)
        behind.start_proxy(UNAWARE)
        async with channel(behind.target) as connection:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(connection)
            # Its status is one of those that are tried again where they refuse.
            call = await on(behind, stub, 0)
            seen = await all_admitted(behind)
            tried = behind.admin.counter(RETRIES)
            await call.write(audio(FULL_SCALE))
            assert await ended(call) is grpc.StatusCode.UNAVAILABLE
            assert behind.admin.counter(RETRIES) == tried
            assert await all_admitted(behind) == seen
            await asyncio.to_thread(behind.services[0].wait_line, "everything runs again")

            # Its connections break.
            call = await on(behind, stub, 0)
            seen = await all_admitted(behind)
            behind.services[0].signal(signal.SIGKILL)
            assert await ended(call) is not grpc.StatusCode.OK
            assert behind.admin.counter(RETRIES) == tried
            assert await behind.opened_on_service(1) == seen[1]

            # Stopped before the config reaches it: whether it has admitted the stream, nobody can know.
            stopped = behind.services[1]
            processes = [stopped.pid, *children(stopped.pid)]
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            await asyncio.to_thread(behind.start_service, 0, FAULT="die", RESTART_S=0.1)
            calls = []
            for _ in range(8):
                calls.append(stub.Recognize())
                await calls[-1].write(config())
            async with asyncio.timeout(PATIENCE_S):
                while behind.admin.counter("cluster.services.upstream_rq_active") < 8:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
            tried = behind.admin.counter(RETRIES)
            for process in processes:
                os.kill(process, signal.SIGKILL)
            codes = [await outcome(call) for call in calls]
            assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
            assert grpc.StatusCode.UNAVAILABLE in codes
            assert behind.admin.counter(RETRIES) == tried
            assert await behind.opened_on_service(0) == codes.count(grpc.StatusCode.OK)


async def test_with_tls_on_one_port(tmp_path: Path) -> None:
    """gRPC and WebSocket; a certificate that is renewed is used for the next connection, and streams go on."""
    authority = Authority(tmp_path)
    folder = tmp_path / "tls"
    folder.mkdir()

    def renew(name: str) -> str:
        certificate, key = authority.issue(name)
        certificate.rename(folder / "tls.crt.new")
        key.replace(folder / "tls.key")
        (folder / "tls.crt.new").replace(folder / "tls.crt")
        return (folder / "tls.crt").read_text()

    first = renew("first")
    with fleet("envoy", tmp_path) as behind:
        behind.tls = folder
        behind.start_service(0)
        await behind.start_bridge(0, ASR_GRPC_TARGET=behind.services[0].target).ready()
        behind.start_proxy()
        await behind.until_in("bridges/bridge-1")
        address = ("127.0.0.1", behind.tls_port)
        assert await asyncio.to_thread(ssl.get_server_certificate, address) in first
        trusted = ssl.create_default_context(cafile=authority.cert)
        credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{behind.tls_port}", credentials) as connection:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(connection)
            expected = await transcribe(stub, SHORT)
            assert expected
            held = await opened(stub, SHORT[:8_000])
            async with connect(f"wss://localhost:{behind.tls_port}", ssl=trusted) as client:
                said: list[str | bytes] = [INIT, *cut(SHORT, 3200), CLOSE]
                for message in said:
                    await client.send(message)
                heard = await listen(client)
            assert (heard.code, heard.final["text"]) == (1000, expected)
            second = renew("second")
            async with asyncio.timeout(PATIENCE_S):
                while await asyncio.to_thread(ssl.get_server_certificate, address) not in second:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
            assert await finished(held, SHORT[8_000:]) == expected


VANISHING = """
import sys
import threading

import grpc
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc


def requests():
    yield pb.RecognizeRequest(config=pb.RecognitionConfig())
    threading.Event().wait()


with grpc.insecure_channel(sys.argv[1]) as channel:
    call = asr_pb2_grpc.SpeechServiceStub(channel).Recognize(requests())
    call.initial_metadata()
    print("admitted", flush=True)
    for _ in call:
        pass
"""


async def test_a_client_that_vanishes_is_found(tmp_path: Path) -> None:
    """Stopped, it answers no ping, while its machine keeps the connection: the service's slot is free again."""
    with fleet("envoy", tmp_path) as behind:
        service = behind.start_service(0)
        behind.start_proxy({"interval: 30s, timeout: 10s": "interval: 1s, timeout: 1s"})
        async with channel(service.target) as connection:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(connection)

            async def active() -> int:
                return (await stub.GetServiceInfo(pb.GetServiceInfoRequest())).active_streams

            with ServerProcess(["-c", VANISHING, behind.target]) as client:
                await asyncio.to_thread(client.wait_line, "admitted")
                assert await active() == 1
                client.signal(signal.SIGSTOP)
                async with asyncio.timeout(PATIENCE_S):
                    while await active():  # noqa: ASYNC110 - another process
                        await asyncio.sleep(0.1)


async def test_envoy_itself_leaves_in_order(tmp_path: Path) -> None:
    """Told to drain, it turns newcomers to others and keeps its streams; stopped then, it has cut nobody."""
    with fleet("envoy", tmp_path) as behind:
        behind.start_service(0)
        behind.start_proxy()
        async with channel(behind.target) as connection:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(connection)
            expected = await transcribe(stub, SHORT)
            held = await opened(stub, SHORT[:8_000])
            assert "OK" in await asyncio.to_thread(behind.admin.get, "/healthcheck/fail", post=True)
            assert "OK" in await asyncio.to_thread(behind.admin.get, "/drain_listeners?graceful", post=True)
            assert await finished(held, SHORT[8_000:]) == expected
            async with asyncio.timeout(PATIENCE_S):
                while behind.admin.counter("http.grpc.downstream_rq_active"):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
            assert await asyncio.to_thread(behind.proxy.stop) == 0

"""The bridge process against a scripted service: what the real service does only in trouble."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from asr.v1 import asr_pb2
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode, aio
from grpc_status import rpc_status
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from testbed.processes import free_port
from tests.support.bridge import CLOSE, INIT, Bridge, Heard, admit, listen, result, scripted_service, talk
from tests.support.process import PATIENCE_S, ServerProcess


async def count_bytes(requests: Any, context: Any) -> None:
    """An interim for each packet, a final for each finalize and for the end; the text is the number of bytes."""
    await admit(context)
    heard = 0
    async for request in requests:
        match request.WhichOneof("request"):
            case "audio":
                heard += len(request.audio)
                await context.write(result(str(heard), final=False))
            case "finalize":
                await context.write(result(str(heard), final=True))
    await context.write(result(str(heard), final=True))


async def test_documented_exchange() -> None:
    before = time.time() * 1000
    async with scripted_service(count_bytes) as target:
        with Bridge(target) as bridge:
            heard = await talk(bridge, [INIT, *[b"\0" * 640] * 50, b"\0", CLOSE])
    assert heard.code == 1000
    assert heard.final["text"] == "32001"
    assert len(heard.of("final")) == 1
    for text in heard.raw:
        message = json.loads(text)
        assert list(message) == ["op", "sid", "text", "final", "ts"]
        assert message["sid"] == "call-17"
        assert message["final"] is (message["op"] == "final")
        assert before - 1000 <= message["ts"] <= time.time() * 1000 + 1000
        assert text == json.dumps(message, separators=(",", ":"))


async def test_service_down_then_up_then_down() -> None:
    port = free_port()
    with Bridge(f"127.0.0.1:{port}") as bridge:
        assert await bridge.get("/healthz") == (200, {"status": "ok"})
        assert (await bridge.get("/readyz"))[0] == 503
        heard = await talk(bridge, [INIT, b"\0" * 640])
        assert (heard.code, heard.error["code"]) == (1013, "unavailable")
        assert heard.error["retry_after_ms"] > 0

        async with scripted_service(count_bytes, port):
            await bridge.ready()
            heard = await talk(bridge, [INIT, b"\0" * 640, CLOSE])
            assert (heard.code, heard.final["text"]) == (1000, "640")
            client = await connect(bridge.url)
            await client.send(INIT)
            await client.send(b"\0" * 640)
            await client.recv()
        # The scripted service stopped without waiting for its streams: the stream is lost with it.
        heard = await listen(client)
        assert (heard.code, heard.error["code"]) == (1011, "unavailable")
        assert heard.error["sid"] == "call-17"

        assert (await bridge.get("/readyz"))[0] == 503
        async with scripted_service(count_bytes, port):
            await bridge.ready()
            assert (await talk(bridge, [INIT, CLOSE])).code == 1000


async def test_a_background_task_that_fails_ends_the_process(tmp_path: Path) -> None:
    """Streams that are open finish, new ones are refused, and the exit code asks for a restart."""
    broken = tmp_path / "broken"
    program = (
        "import pathlib, sys\n"
        "from ws_bridge.__main__ import main\n"
        "from ws_bridge.channels import Channels\n"
        "keep_warm = Channels.keep_warm\n"
        "def fail(self):\n"
        f"    assert not pathlib.Path({str(broken)!r}).exists()\n"
        "    keep_warm(self)\n"
        "Channels.keep_warm = fail\n"
        "sys.exit(main([]))\n"
    )
    async with scripted_service(count_bytes) as target:
        settings: dict[str, Any] = {
            "ASR_HOST": "127.0.0.1",
            "ASR_PORT": 0,
            "ASR_GRPC_TARGET": target,
            "ASR_DRAIN_S": 600,
        }
        with ServerProcess(["-c", program], **settings) as process:
            port = process.wait_line(r"listening\b.*\bport\W+(\d+)").group(1)
            async with connect(f"ws://127.0.0.1:{port}") as client:
                await client.send(INIT)
                await client.send(b"\0" * 640)
                await client.recv()
                broken.touch()
                await asyncio.to_thread(process.wait_line, "a background task has failed")
                with pytest.raises((InvalidStatus, OSError)):
                    await connect(f"ws://127.0.0.1:{port}")
                await client.send(CLOSE)
                heard = await listen(client)
            assert (heard.code, heard.final["text"]) == (1000, "640")
            assert await asyncio.to_thread(process.wait) == 1


async def test_a_service_that_accepts_connections_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with Bridge(f"127.0.0.1:{port}", ASR_BRIDGE_OPEN_S=0.5) as bridge:
            heard = await talk(bridge, [INIT])
    assert (heard.code, heard.error["code"]) == (1013, "unavailable")


async def test_statuses_of_the_service_reach_the_client() -> None:
    retry, bad = any_pb2.Any(), any_pb2.Any()
    retry.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2)))
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="config.sample_rate_hertz", description="is wrong"
    )
    bad.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    statuses = {
        "full": (8, "all taken", [retry], 1013, "resource_exhausted"),
        "field": (3, "sr is wrong", [bad], 1008, "invalid_argument"),
        "idle": (4, "nothing was received", [], 1008, "deadline_exceeded"),
        "bug": (13, "failed (request id 7)", [], 1011, "internal"),
        "odd": (10, "aborted", [], 1011, "internal"),
    }

    async def fail(requests: Any, context: Any) -> None:
        async for request in requests:
            number, message, details, *_ = statuses[request.config.stream_id]
            if number not in (3, 8):
                await admit(context)
                await context.write(result("so far", final=True))
            status = status_pb2.Status(code=number, message=message, details=details)
            await context.abort_with_status(rpc_status.to_status(status))

    async with scripted_service(fail) as target:
        with Bridge(target) as bridge:
            for sid, (number, message, details, close, name) in statuses.items():
                heard = await talk(bridge, [json.dumps({"op": "init", "sid": sid, "sr": 16000}), b"\0\0"])
                assert (heard.code, heard.error["code"], heard.error["message"]) == (close, name, message)
                assert heard.reason == message
                assert heard.error["sid"] == sid
                assert heard.error.get("retry_after_ms") == (2000 if retry in details else None)
                assert heard.error.get("field") == ("sr" if bad in details else None)
                if number not in (3, 8):
                    assert [final["text"] for final in heard.of("final")] == ["so far"]


async def test_a_service_that_ends_the_stream_early_is_not_taken_for_a_good_end() -> None:
    async def end(_: Any, context: Any) -> None:
        await admit(context)

    async with scripted_service(end) as target:
        with Bridge(target) as bridge:
            heard = await talk(bridge, [INIT])
    assert (heard.code, heard.error["code"]) == (1011, "internal")


async def test_target_that_is_no_speech_service() -> None:
    server = aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with Bridge(f"127.0.0.1:{port}") as bridge:
            heard = await talk(bridge, [INIT])
            assert (heard.code, heard.error["code"]) == (1011, "internal")
            assert (await bridge.get("/readyz"))[0] == 503
    finally:
        await server.stop(None)


async def test_finals_left_unread_have_a_limit_and_interims_do_not() -> None:
    asked = asyncio.Event()

    async def flood(requests: Any, context: Any) -> None:
        await admit(context)
        filler = "word " * 2000
        async for request in requests:
            if request.WhichOneof("request") == "audio":
                for _ in range(2000):  # 20 MB of interims: more than sockets hold
                    await context.write(result(filler, final=False))
                asked.set()
            elif request.WhichOneof("request") == "finalize":
                for _ in range(2000):
                    await context.write(result(filler, final=True))
        # The bridge has half-closed: what was recognized meanwhile comes before the error.
        last = result("last words", final=True)
        last.result.final_reason = asr_pb2.FINAL_REASON_END_OF_STREAM
        await context.write(last)

    async with scripted_service(flood) as target:
        with Bridge(target, ASR_BRIDGE_MAX_UNREAD=10) as bridge:
            # Nothing is read from the socket: the library's queue of one frame is full at once.
            async with connect(bridge.url, compression=None, max_queue=1) as client:
                await client.send(json.dumps({**json.loads(INIT), "details": True}))
                await client.send(b"\0\0")
                await asyncio.wait_for(asked.wait(), 30)
                await client.send('{"op":"finalize"}')
                await bridge.said("connection ended .*outcome=resource_exhausted")
                heard = await listen(client)
    assert (heard.code, heard.error["code"]) == (1008, "resource_exhausted")
    assert "unread" in heard.error["message"] or "wait to be read" in heard.error["message"]
    assert len(heard.of("final")) >= 10
    last = heard.of("final")[-1]
    assert (last["text"], last["reason"]) == ("last words", "ended_by_server")
    assert len(heard.of("interim")) < 2000


async def test_a_client_that_reads_late_gets_the_latest_interim() -> None:
    written = asyncio.Event()

    async def count(requests: Any, context: Any) -> None:
        await admit(context)
        filler = " word" * 2000
        for number in range(2000):
            await context.write(result(f"{number}{filler}", final=False))
        written.set()
        async for _ in requests:
            pass
        await context.write(result("the end", final=True))

    async with scripted_service(count) as target:
        with Bridge(target) as bridge:
            async with (
                connect(bridge.url, compression=None, max_queue=1) as client,
                asyncio.timeout(PATIENCE_S),
            ):
                await client.send(INIT)
                await written.wait()
                numbers: list[int] = []
                while not numbers or numbers[-1] != 1999:
                    numbers.append(int(json.loads(await client.recv())["text"].split()[0]))
                await client.send(CLOSE)
                heard = await listen(client)
    assert numbers == sorted(numbers) and len(numbers) < 2000
    assert (heard.code, [message["text"] for message in heard.messages]) == (1000, ["the end"])


async def test_vanished_client_cancels_the_call_at_once_even_when_the_service_takes_nothing() -> None:
    cancelled = asyncio.Event()
    admitted = asyncio.Event()

    async def never_read(_: Any, context: Any) -> None:
        await admit(context)
        admitted.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with scripted_service(never_read) as target:
        with Bridge(target) as bridge:
            client = await connect(bridge.url, compression=None)
            await client.send(INIT)
            await asyncio.wait_for(admitted.wait(), 30)

            async def fill() -> None:
                while True:
                    await client.send(b"\0" * 65536)

            with pytest.raises(TimeoutError):  # the bridge has stopped reading
                await asyncio.wait_for(fill(), 1)
            client.transport.abort()
            await asyncio.wait_for(cancelled.wait(), 10)
            await bridge.said("connection ended .*outcome=gone")


async def test_a_client_that_goes_silent_is_found_dead() -> None:
    cancelled = asyncio.Event()

    async def wait(_: Any, context: Any) -> None:
        await admit(context)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with scripted_service(wait) as target:
        with Bridge(target, ASR_BRIDGE_PING_S=0.3) as bridge:
            reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
            writer.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            frame = INIT.encode()
            writer.write(bytes([0x81, 0x80 | len(frame), 0, 0, 0, 0]) + frame)
            # Never answers a ping, and keeps its connection open.
            await asyncio.wait_for(cancelled.wait(), 20)
            await bridge.said("connection ended .*outcome=gone")
            writer.close()


async def test_origins() -> None:
    async with scripted_service(count_bytes) as target:
        with Bridge(target, ASR_BRIDGE_ORIGINS="https://app.example.com, null") as bridge:
            for origin in ("https://app.example.com", "null", None):
                assert (await talk(bridge, [INIT, CLOSE], origin=origin)).code == 1000
            with pytest.raises(InvalidStatus) as refused:
                await talk(bridge, [INIT, CLOSE], origin="https://evil.example.com")
            assert refused.value.response.status_code == 403


async def test_too_many_connections_are_refused_at_the_door() -> None:
    async with scripted_service(count_bytes) as target:
        with Bridge(target, ASR_BRIDGE_MAX_CONNECTIONS=1) as bridge:
            async with connect(bridge.url) as first:
                await first.send(INIT)
                await first.send(b"\0\0")
                await first.recv()
                with pytest.raises(InvalidStatus) as refused:
                    await connect(bridge.url)
                assert refused.value.response.status_code == 503
                assert refused.value.response.headers["Retry-After"] == "1"
                assert await bridge.get("/healthz") == (200, {"status": "ok"})
            await bridge.said("connection ended")
            assert (await talk(bridge, [INIT, CLOSE])).code == 1000


async def test_no_init_in_time() -> None:
    async with scripted_service(count_bytes) as target:
        with Bridge(target, ASR_BRIDGE_OPEN_S=0.5) as bridge:
            heard = await talk(bridge, [])
    assert (heard.code, heard.error["code"]) == (1008, "deadline_exceeded")
    assert "init" in heard.error["message"]


async def test_streams_share_the_channels() -> None:
    peers: set[str] = set()

    async def note(requests: Any, context: Any) -> None:
        peers.add(context.peer())
        await count_bytes(requests, context)

    async with scripted_service(note) as target:
        with Bridge(target, ASR_BRIDGE_CHANNELS=3) as bridge:
            said: list[str | bytes] = [INIT, *[b"\0" * 640] * 5, CLOSE]
            all_heard: list[Heard] = await asyncio.gather(*(talk(bridge, said) for _ in range(12)))
    assert [heard.final["text"] for heard in all_heard] == ["3200"] * 12
    assert len(peers) == 3


async def test_compression_only_when_asked_for() -> None:
    async with scripted_service(count_bytes) as target:
        for wanted in (False, True):
            with Bridge(target, ASR_BRIDGE_COMPRESSION=wanted) as bridge:
                async with connect(bridge.url, compression="deflate") as client:
                    assert client.response is not None
                    assert ("Sec-WebSocket-Extensions" in client.response.headers) is wanted


async def test_unimplemented_method_is_told_as_ours() -> None:
    async def unimplemented(_: Any, context: Any) -> None:
        await context.abort(StatusCode.UNIMPLEMENTED, "not here")

    async with scripted_service(unimplemented) as target:
        with Bridge(target) as bridge:
            heard = await talk(bridge, [INIT])
    assert (heard.code, heard.error) == (
        1011,
        {"op": "error", "sid": "call-17", "code": "internal", "message": "not here"},
    )


async def test_requests_as_the_service_sees_them() -> None:
    seen: list[asr_pb2.RecognizeRequest] = []

    async def note(requests: Any, context: Any) -> None:
        await admit(context)
        seen.extend([request async for request in requests])
        await context.write(result("", final=True))

    init = '{"op":"init","sid":"a b","sr":8000,"enc":"alaw","endpoint_ms":400}'
    said: list[str | bytes] = [
        *(init, b"", b"\1", '{"op":"keepalive"}', '{"op":"finalize","tag":"t"}', '{"op":"close"}', b"late")
    ]
    async with scripted_service(note) as target:
        with Bridge(target) as bridge:
            assert (await talk(bridge, said)).code == 1000
    assert [request.WhichOneof("request") for request in seen] == [
        "config",
        "audio",
        "audio",
        "keep_alive",
        "finalize",
    ]
    assert seen[0].config.stream_id == "a b"
    assert [request.audio for request in seen[1:3]] == [b"", b"\1"]
    assert seen[4].finalize.tag == "t"

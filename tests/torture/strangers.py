"""Strangers who say anything to a real service and a real bridge, over sockets, beside streams that stay exact."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from testbed.processes import free_port
from tests.support.bridge import Bridge, Heard, listen
from tests.support.posting import post
from tests.support.process import AsrService
from tests.torture.parsers import seeds
from tests.torture.streams import Behaviour, Client, Watch, learn, make_scripts

AT_ONCE = 8
HANG_S = 60.0
"""Longest time for one conversation, on however busy a machine."""
CLOSES = {1000, 1002, 1007, 1008, 1009}
"""Done, not WebSocket, not UTF-8, not this protocol, too large: what a client may be told that sends anything."""
CODES = {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
POST = b"POST /v1/listen?encoding=mulaw HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


def spoiled(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, left out, put in or said twice; now and then none."""
    whole = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(whole) + 1)
        end = at + rng.choice((0, 1, 1, 2, 16))
        whole[at:end] = rng.choice((b"", rng.randbytes(1), rng.randbytes(4), bytes(whole[at:end]) * 2))
    return bytes(whole)


async def visit(count: int, seed: int, *, show: bool) -> Counter[str]:
    """Holds `count` conversations; what they ended with."""
    rng = random.Random(seed)
    port = free_port()
    outcomes: Counter[str] = Counter()
    with (
        AsrService(ASR_MAX_STREAMS=64, ASR_MAX_LOAD=0, ASR_METRICS_PORT=port) as service,
        # Where nobody listens: what calls come to is told to nobody, and the calls end all the same.
        Bridge(
            service.target, ASR_BRIDGE_OPEN_S=30, ASR_BRIDGE_TWILIO_WEBHOOK=f"http://127.0.0.1:{free_port()}"
        ) as bridge,
    ):
        await bridge.ready()
        scripts = make_scripts(rng, 4)
        await learn(service.target, scripts)
        begun = 0
        async with grpc.aio.insecure_channel(service.target) as channel:
            plain = grpc.insecure_channel(service.target)
            kinds: list[Callable[[random.Random], Awaitable[str]]] = [
                lambda own: over_websocket(bridge.url, own),
                lambda own: over_dialect(bridge.url, own),
                lambda own: recording(bridge.port, own),
                lambda own: over_grpc(plain, own),
                lambda own: over_riva(plain, own),
                lambda own: upload(plain, own),
                lambda own: nonsense(bridge.port, HANDSHAKE, own),
                lambda own: nonsense(bridge.port, POST, own),
                lambda own: nonsense(int(service.target.rpartition(":")[2]), HTTP2, own),
            ]

            async def stranger() -> None:
                nonlocal begun
                while begun < count:
                    begun += 1
                    number, own = begun, random.Random(rng.randrange(2**30))
                    try:
                        async with asyncio.timeout(HANG_S):
                            outcomes[await own.choice(kinds)(own)] += 1
                    except TimeoutError:
                        raise AssertionError(
                            f"conversation {number} of seed {seed} hung for {HANG_S:g} s"
                        ) from None
                    if show and number % 1000 == 0:
                        print(f"  over sockets: {number} of {count}", flush=True)

            async def neighbour() -> None:
                while begun < count:
                    how = await Client(channel, rng.choice(scripts), rng, Behaviour(pace=1.0)).run()
                    assert how == "exact", how

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(stranger())
                group.create_task(neighbour())
            plain.close()
            await Watch(port, service.pid).until_empty()
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for process in (bridge, service):
            assert process.stop() == 0
            at = process.output.find("Traceback")
            assert at < 0, process.output[max(0, at - 1000) : at + 3000]
    return outcomes


async def over_websocket(url: str, rng: random.Random) -> str:
    """Messages in any order, some of them no UTF-8; ends by itself, or with `close` after init."""
    lines = spoiled(rng, rng.choice(seeds("websocket"))).split(b"\n")
    socket = await connect(url, compression=None)
    heard = Heard()
    hearing = asyncio.create_task(listen(socket, heard))
    with contextlib.suppress(ConnectionClosed):
        for line in lines:
            await (socket.send(line[1:]) if line[:1] == b"\0" else socket.send(line, text=True))
        await socket.send('{"op":"close"}')
    await hearing
    assert heard.code in CLOSES, f"closed with {heard.code} after {lines}: {heard.raw[-1:]}"
    if heard.code == 1008:
        assert heard.error["code"] in ("invalid_argument", "failed_precondition"), heard.raw
    return f"WebSocket {heard.code}"


async def over_dialect(url: str, rng: random.Random) -> str:
    """Messages of another protocol, on its path; ends by itself, or with what closes it there."""
    target, path, ends = rng.choice(
        [
            ("deepgram", "/v1/listen?", '{"type":"CloseStream"}'),
            ("realtime", "/v1/realtime?", None),
            ("twilio", "/twilio?", '{"event":"stop"}'),
        ]
    )
    query, *lines = spoiled(rng, rng.choice(seeds(target))).split(b"\n")
    if target == "twilio":
        query, lines = b"", [query, *lines]
    asked = quote(query, safe="=&%+")
    try:
        socket = await connect(url + path + asked, compression=None)
    except InvalidStatus as refused:
        status = refused.response.status_code
        assert status == 400, f"{status} for {asked}"
        return f"{target} HTTP {status}"
    heard = Heard()
    hearing = asyncio.create_task(listen(socket, heard))
    with contextlib.suppress(ConnectionClosed):
        for line in lines:
            await (socket.send(line[1:]) if line[:1] == b"\0" else socket.send(line, text=True))
        if ends is None:
            # Its clients end a session by closing the connection.
            await socket.close()
        else:
            await socket.send(ends)
    await hearing
    ended = heard.code if ends else 1000
    assert ended in CLOSES, f"closed with {heard.code} after {asked} and {lines}: {heard.raw[-1:]}"
    return f"{target} {ended}"


async def recording(port: int, rng: random.Random) -> str:
    """A spoiled recording, or a spoiled form, as a request's body."""
    if rng.random() < 0.5:
        path, headers, body = "/v1/listen", {}, spoiled(rng, rng.choice(seeds("recording"))[1:])
    else:
        path, headers = "/v1/audio/transcriptions", {"Content-Type": "multipart/form-data; boundary=x"}
        body = spoiled(rng, rng.choice(seeds("form"))[3:])
    answer = await post(port, path, body, headers)
    assert answer.status in (200, 400), f"{answer.status} ({answer.body!r}) for {body!r}"
    return f"POST {answer.status}"


async def over_grpc(channel: grpc.Channel, rng: random.Random) -> str:
    """Bytes as messages of `Recognize`."""
    return await asyncio.to_thread(_call, channel, rng, "/asr.v1.SpeechService/Recognize", "config")


async def over_riva(channel: grpc.Channel, rng: random.Random) -> str:
    """Bytes as messages of Riva's `StreamingRecognize`."""
    method = "/nvidia.riva.asr.RivaSpeechRecognition/StreamingRecognize"
    return await asyncio.to_thread(_call, channel, rng, method, "riva")


async def upload(channel: grpc.Channel, rng: random.Random) -> str:
    """A spoiled file as the audio of Riva's unary `Recognize`."""
    file = spoiled(rng, rng.choice(seeds("file")))
    size = len(file)
    request = b"\x12" + bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14)) + file  # field 2, audio
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
        "/nvidia.riva.asr.RivaSpeechRecognition/Recognize"
    )
    return await asyncio.to_thread(_outcome, lambda: call(request, timeout=HANG_S), [request])


def _call(channel: grpc.Channel, rng: random.Random, method: str, target: str) -> str:
    """In a thread: grpc.aio puts a status of its own for that of a stream that ends while it writes."""
    good = seeds(target)
    requests = [spoiled(rng, rng.choice((good[0], rng.choice(good)))) for _ in range(rng.randint(1, 4))]
    call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
    return _outcome(lambda: list(call(iter(requests), timeout=HANG_S)), requests)


def _outcome(call: Callable[[], object], requests: list[bytes]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        code, said = error.code().name, error.details()
    else:
        code, said = "OK", ""
    assert code in CODES, f"{code} ({said}) after {requests}"
    return f"gRPC {code}"


async def nonsense(port: int, start: bytes, rng: random.Random) -> str:
    """Bytes at a port, after a right start or none; whatever is answered, the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(OSError):
        writer.write(rng.choice((b"", start, spoiled(rng, start))) + rng.randbytes(rng.randrange(300)))
        await writer.drain()
        writer.write_eof()
        while await reader.read(65_536):
            pass
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return "nonsense"

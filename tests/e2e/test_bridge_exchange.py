"""The WebSocket protocol through a real bridge and a real service: exactly what is documented, and nothing lost."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asr.v1 import asr_pb2 as pb
from websockets.asyncio.client import connect
from websockets.sync.client import connect as connect_sync

from tests.support.audio import cut, silence, speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, Heard, listen, talk
from tests.support.process import AsrService
from tests.support.rpc import Stub, transcribe, until_active


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Iterator[Bridge]:
    with Bridge(service.target) as process:
        yield process


def init(**fields: object) -> str:
    return json.dumps({"op": "init", "sid": "call-17", "sr": 16000} | fields)


def finals(heard: Heard) -> str:
    return " ".join(final["text"] for final in heard.of("final") if final["text"])


async def test_the_documented_exchange_byte_by_byte(bridge: Bridge, stub: Stub) -> None:
    pcm = speechlike(2.0)
    info = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
    chunk = 32 * info.chunk_ms  # bytes
    steps = [pcm[:chunk], *cut(pcm[chunk:], chunk)]
    before = int(time.time() * 1000)
    heard = Heard()
    async with connect(bridge.url) as client:
        await client.send('{"op":"init","sid":"call-17","sr":16000}')
        for step in steps[:-1]:  # each brings one chunk to completion, and so one interim
            for packet in cut(step, 640):
                await client.send(packet)
            heard.raw.append(str(await client.recv()))
        await client.send(steps[-1])
        await client.send('{"op":"close","sid":"call-17"}')
        await listen(client, heard)

    for raw in heard.raw:
        message = json.loads(raw)
        is_final = "true" if raw == heard.raw[-1] else "false"
        assert raw == (
            f'{{"op":"{"final" if is_final == "true" else "interim"}","sid":"call-17","text":"{message["text"]}",'
            f'"final":{is_final},"ts":{message["ts"]}}}'
        )
        assert before <= message["ts"] <= time.time() * 1000
    assert len(heard.of("interim")) >= len(steps) - 1
    assert heard.final["text"] == await transcribe(stub, pcm) != ""
    assert (heard.code, heard.reason) == (1000, "")


@pytest.mark.parametrize("size", [1, 3, 333, 639, 1280, 64000, 10**7])
async def test_text_does_not_depend_on_packets(bridge: Bridge, stub: Stub, size: int) -> None:
    pcm = speechlike(0.4 if size < 10 else 1.0, seed=size) + b"\x7f"  # half a sample at the end
    heard = await talk(bridge, [INIT, *cut(pcm, size), CLOSE])
    assert heard.final["text"] == await transcribe(stub, pcm) != ""


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"sr": 8000}, {"sample_rate_hertz": 8000}),
        ({"sr": 48000}, {"sample_rate_hertz": 48000}),
        ({"sr": 8000, "enc": "mulaw"}, {"sample_rate_hertz": 8000, "encoding": pb.AUDIO_ENCODING_MULAW}),
        ({"sr": 8000, "enc": "alaw"}, {"sample_rate_hertz": 8000, "encoding": pb.AUDIO_ENCODING_ALAW}),
        ({"enc": "linear16"}, {}),
    ],
)
async def test_rates_and_encodings(
    bridge: Bridge, stub: Stub, fields: dict[str, object], same: dict[str, Any]
) -> None:
    data = random.Random(7).randbytes(24_000)
    heard = await talk(bridge, [init(**fields), *cut(data, 320), CLOSE])
    assert heard.final["text"] == await transcribe(stub, data, **same) != ""


async def test_finalize_and_the_stream_goes_on(bridge: Bridge) -> None:
    first, second = speechlike(1.0, seed=1), speechlike(1.0, seed=2)
    said: list[str | bytes] = [
        INIT,
        *cut(first, 640),
        '{"op":"finalize"}',
        *cut(second, 640),
        '{"op":"finalize","tag":"two"}',
        CLOSE,
    ]
    heard = await talk(bridge, said)
    one, two, last = heard.of("final")
    assert one["text"]
    assert two["text"]
    assert last["text"] == ""  # nothing was said after the second finalize
    assert list(one) == ["op", "sid", "text", "final", "ts"]
    assert "tag" not in last
    assert two["tag"] == "two"
    assert heard.messages[-1] == last  # the last final is the one that close code 1000 follows
    assert heard.code == 1000


async def test_endpoints_words_and_details(bridge: Bridge) -> None:
    pcm = speechlike(1.0, seed=3) + silence(1.0) + speechlike(1.0, seed=4) + silence(1.0)
    heard = await talk(bridge, [init(endpoint_ms=300, words=True, details=True), *cut(pcm, 640), CLOSE])
    spoken = [final for final in heard.of("final") if final["text"]]
    assert len(spoken) >= 2
    assert spoken[0]["reason"] == "endpoint"
    assert heard.final["reason"] == "end_of_stream"
    assert [final["utterance"] for final in heard.of("final")] == list(range(len(heard.of("final"))))
    for final in spoken:
        assert " ".join(word["word"] for word in final["words"]) == final["text"]
        assert all(0 <= word["start_ms"] < word["end_ms"] <= 4000 for word in final["words"])
        assert 0 < final["confidence"] <= 1


async def test_no_interims_when_not_wanted(bridge: Bridge) -> None:
    heard = await talk(bridge, [init(interim=False), *cut(speechlike(1.0), 640), CLOSE])
    assert [message["op"] for message in heard.messages] == ["final"]


async def test_two_connections_with_one_sid(bridge: Bridge, stub: Stub) -> None:
    one, two = speechlike(1.0, seed=11), speechlike(1.5, seed=12)
    heard = await asyncio.gather(*(talk(bridge, [INIT, *cut(pcm, 640), CLOSE]) for pcm in (one, two)))
    assert [h.final["text"] for h in heard] == [await transcribe(stub, one), await transcribe(stub, two)]
    assert {h.final["sid"] for h in heard} == {"call-17"}


async def test_a_client_that_reads_only_after_close(bridge: Bridge, stub: Stub) -> None:
    """One thread, one socket: two minutes of audio are written before the first message is read."""
    pcm = speechlike(120.0, seed=5)

    def write_then_read() -> tuple[str, int]:
        with connect_sync(bridge.url, compression=None, max_queue=1) as client:
            client.send(INIT)
            for packet in cut(pcm, 6400):
                client.send(packet)
            client.send(CLOSE)
            last = ""
            for message in client:
                last = str(message)
            assert client.close_code is not None
            return last, client.close_code

    last, code = await asyncio.to_thread(write_then_read)
    assert code == 1000
    assert json.loads(last)["op"] == "final"
    assert json.loads(last)["text"] == await transcribe(stub, pcm, 6400)


@asynccontextmanager
async def never_reading(bridge: Bridge) -> AsyncIterator[asyncio.StreamWriter]:
    """A client that has sent init and reads nothing but the handshake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port, limit=1024)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(INIT.encode(), 0x81))
    try:
        yield writer
    finally:
        writer.transport.abort()


def frame(payload: bytes, head: int) -> bytes:
    """One masked WebSocket frame; the mask is zero."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
    return bytes([head]) + length + bytes(4) + payload


async def active(stub: Stub) -> int:
    info = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
    return info.active_streams


async def test_a_client_that_never_reads_is_served_and_nobody_else_notices(
    bridge: Bridge, stub: Stub
) -> None:
    other = speechlike(1.0, seed=6)
    async with never_reading(bridge) as writer:
        for packet in cut(speechlike(60.0), 32_000):
            writer.write(frame(packet, 0x82))
            await writer.drain()
        heard = await talk(bridge, [INIT, *cut(other, 640), CLOSE])
        assert heard.final["text"] == await transcribe(stub, other)
        writer.write(frame(CLOSE.encode(), 0x81))
        await until_active(stub, 0)  # its slot is free although it still has not read a byte
        await bridge.said("connection ended sid=call-17 outcome=ok .*audio_bytes=1920000")


async def test_a_client_that_vanishes_in_the_middle_of_a_packet_gives_its_slot_back(
    bridge: Bridge, stub: Stub
) -> None:
    async with never_reading(bridge) as writer:
        writer.write(frame(speechlike(0.5), 0x82) + frame(bytes(640), 0x82)[:100])
        await until_active(stub, 1)
    await until_active(stub, 0)


async def test_a_client_that_leaves_without_close_gives_its_slot_back(bridge: Bridge, stub: Stub) -> None:
    async with connect(bridge.url) as client:
        await client.send(INIT)
        await client.send(speechlike(1.0))
        await client.recv()
        assert await active(stub) == 1
    await until_active(stub, 0)


@pytest.mark.parametrize("pcm", [b"", b"\1", b"\1\0", silence(60.0)], ids=["none", "half", "one", "minute"])
async def test_silence(bridge: Bridge, pcm: bytes) -> None:
    heard = await talk(bridge, [INIT, *cut(pcm, 32_000), CLOSE])
    assert {message["text"] for message in heard.messages} == {""}
    assert (heard.code, heard.final["text"]) == (1000, "")


async def test_keepalive_and_what_follows_close(bridge: Bridge, stub: Stub) -> None:
    pcm = speechlike(1.0, seed=8)
    said: list[str | bytes] = [INIT]
    for packet in cut(pcm, 6400):
        said += [packet, '{"op":"keepalive"}', b""]
    heard = await talk(bridge, [*said, CLOSE, pcm, "rubbish"])
    assert (heard.code, heard.final["text"]) == (1000, await transcribe(stub, pcm))


async def test_large_packets_meet_no_limit_of_the_service(stub: Stub) -> None:
    """At the smallest limit that the service can be given."""
    pcm = speechlike(5.0, seed=9)
    with AsrService(ASR_MAX_MESSAGE_BYTES=65_536) as service, Bridge(service.target) as own:
        await own.ready()
        heard = await talk(own, [INIT, pcm, CLOSE])
    assert (heard.code, heard.final["text"]) == (1000, await transcribe(stub, pcm))


async def test_a_slow_reader_gets_every_final_after_the_interims_of_its_utterance(bridge: Bridge) -> None:
    """Each finalize is answered; whichever interims are still told, what they say goes on into their final."""
    said: list[str | bytes] = [INIT]
    async with connect(bridge.url, compression=None, max_queue=1) as client:
        for _ in range(20):
            said += [speechlike(1.0), '{"op":"finalize"}']
        for message in [*said, CLOSE]:
            await client.send(message)
        heard = await listen(client)
    assert len(heard.of("final")) == 21
    assert heard.code == 1000
    words: list[str] = []
    for told in heard.messages:
        now = told["text"].split()
        assert now[: len(words)] == words
        words = [] if told["final"] else now
    assert finals(heard)

"""Packets that the bridge joins, seen by a relay between it and a real service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2, asr_pb2_grpc
from websockets.asyncio.client import ClientConnection, connect

from tests.support.audio import cut, speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, listen, scripted_service, talk
from tests.support.process import PATIENCE_S, AsrService

PACKET_BYTES = 640
FIRST_CHUNK_BYTES, CHUNK_BYTES = 2 * 1480, 5120


class Relay:
    """Passes calls on to a service.

    Attributes:
        sizes: bytes of each message of audio that came.
        changed: set at each of them.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.sizes: list[int] = []
        self.changed = asyncio.Event()

    async def handle(self, requests: Any, context: Any) -> None:
        async with grpc.aio.insecure_channel(self._target) as channel:
            call = asr_pb2_grpc.SpeechServiceStub(channel).Recognize()

            async def pass_on() -> None:
                async for request in requests:
                    if request.audio:
                        self.sizes.append(len(request.audio))
                        self.changed.set()
                    await call.write(request)
                await call.done_writing()

            passing = asyncio.create_task(pass_on())
            await context.send_initial_metadata(tuple(await call.initial_metadata()))
            while (response := await call.read()) is not grpc.aio.EOF:
                await context.write(response)
            await passing

    async def has(self, total: int) -> None:
        """Waits until so many bytes have come."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(self.sizes) < total:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def relay(service: AsrService) -> Relay:
    return Relay(service.target)


@asynccontextmanager
async def client_of(relay: Relay, init: str = INIT) -> AsyncIterator[ClientConnection]:
    """A client of a bridge to the relay, whose first second of audio has made a result."""
    async with scripted_service(relay.handle) as target:
        with Bridge(target) as bridge:
            async with connect(bridge.url, compression=None) as client:
                await client.send(init)
                ends, sent = [FIRST_CHUNK_BYTES + CHUNK_BYTES * number for number in range(6)], 0
                for packet in cut(speechlike(1.0), PACKET_BYTES):
                    await client.send(packet)
                    sent += len(packet)
                    # One after the other, since a result takes the place of one that was not sent yet.
                    if ends and sent >= ends[0]:
                        del ends[0]
                        await client.recv()
                yield client


async def test_a_message_a_chunk_and_the_words_of_packets_that_were_sent_one_by_one(
    relay: Relay, service: AsrService
) -> None:
    pcm = speechlike(4.0)
    with Bridge(service.target) as direct:
        expected = (await talk(direct, [INIT, *cut(pcm, PACKET_BYTES), CLOSE])).final["text"]
    async with client_of(relay) as client:
        before = len(relay.sizes)
        for packet in cut(pcm[32_000:], PACKET_BYTES):
            await client.send(packet)
        await relay.has(len(pcm) - CHUNK_BYTES)
        sizes = relay.sizes[before:]
        await client.send(CLOSE)
        assert (await listen(client)).final["text"] == expected
    assert sum(relay.sizes) == len(pcm)
    # 3 s in 150 packets, and chunks of 160 ms.
    assert len(sizes) <= 30
    assert CHUNK_BYTES in sizes


async def test_a_finalize_takes_along_what_is_held(relay: Relay) -> None:
    async with client_of(relay) as client:
        await client.send(bytes(PACKET_BYTES))
        await client.send('{"op":"finalize","tag":"now"}')
        async with asyncio.timeout(PATIENCE_S):
            while "tag" not in (message := json.loads(await client.recv())):
                pass
        assert (message["op"], message["tag"]) == ("final", "now")
        assert sum(relay.sizes) == 32_000 + PACKET_BYTES


async def test_part_of_a_chunk_goes_before_long_if_nothing_follows(relay: Relay) -> None:
    async with client_of(relay) as client:
        await client.send(bytes(PACKET_BYTES))
        await relay.has(32_000 + PACKET_BYTES)


async def test_packets_go_one_by_one_where_gaps_between_them_count(relay: Relay) -> None:
    async with client_of(relay, INIT.replace("}", ',"gap_ms":1000}')) as client:
        for _ in range(10):
            await client.send(bytes(PACKET_BYTES))
        await relay.has(32_000 + 10 * PACKET_BYTES)
        assert set(relay.sizes) == {PACKET_BYTES}


async def test_a_response_says_where_the_next_chunk_ends_if_the_config_asks_for_it(
    service: AsrService,
) -> None:
    async with grpc.aio.insecure_channel(service.target) as channel:
        for asks in (False, True):
            call = asr_pb2_grpc.SpeechServiceStub(channel).Recognize()
            await call.write(asr_pb2.RecognizeRequest(config=asr_pb2.RecognitionConfig(chunk_ends=asks)))
            # The first chunk of 70,1 and half of the next one.
            await call.write(asr_pb2.RecognizeRequest(audio=speechlike(1.0)[: 2 * 1480 + CHUNK_BYTES // 2]))
            response = await call.read()
            assert isinstance(response, asr_pb2.RecognizeResponse)
            expected = asr_pb2.ChunkEnd(end_bytes=2 * 1480 + CHUNK_BYTES, chunk_bytes=CHUNK_BYTES)
            assert response.HasField("next_chunk") is asks
            assert not asks or response.next_chunk == expected
            call.cancel()

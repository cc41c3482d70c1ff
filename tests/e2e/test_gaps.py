"""Pauses without packets: silence where a stream asks for it, by default over Riva, and no time at all otherwise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asr.v1 import asr_pb2 as pb
from websockets.asyncio.client import connect

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from tests.support import riva, rpc
from tests.support.audio import speechlike
from tests.support.bridge import Bridge, talk
from tests.support.process import AsrService
from tests.support.three_doors import Doors, connected

TURN = speechlike(0.64, seed=3)


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Any:
    with Bridge(service.target) as process:
        yield process


@pytest.fixture
async def doors(service: AsrService, bridge: Bridge) -> AsyncIterator[Doors]:
    async with connected(service, bridge) as made:
        yield made


async def over_grpc(doors: Doors) -> AsyncIterator[tuple[str, float]]:
    """Text and time on the stream's clock of each final, while nothing is sent after the first turn."""
    call: Any = doors.stub.Recognize()
    endpointing = pb.Endpointing(trailing_silence_ms=300)
    await call.write(rpc.config(fill_gaps_after_ms=100, endpointing=endpointing, interim_results=False))
    await call.write(rpc.audio(TURN))
    first = await call.read()
    yield first.result.text, first.audio_processed_ms / 1000
    await call.write(rpc.audio(TURN))
    second = await call.read()
    yield second.result.text, second.audio_processed_ms / 1000
    call.cancel()


async def over_riva(doors: Doors) -> AsyncIterator[tuple[str, float]]:
    """The same by default."""
    call = doors.riva.StreamingRecognize()
    await call.write(riva.opening(interims=False, endpointing_config=riva.pause(320)))
    for _ in range(2):
        await call.write(riva.audio(TURN))
        result = (await call.read()).results[0]
        yield result.alternatives[0].transcript, result.audio_processed
    call.cancel()


async def over_websocket(doors: Doors) -> AsyncIterator[tuple[str, float]]:
    init = {"op": "init", "sid": "a", "endpoint_ms": 300, "gap_ms": 100, "details": True, "interim": False}
    async with connect(doors.bridge.url, compression=None) as client:
        await client.send(json.dumps(init))
        for _ in range(2):
            await client.send(TURN)
            final = json.loads(await client.recv())
            yield final["text"], final["audio_ms"] / 1000


@pytest.mark.parametrize("door", [over_grpc, over_riva, over_websocket])
async def test_a_muted_microphone_ends_the_utterance(doors: Doors, door: Any) -> None:
    """The final comes though nothing is sent, and the clock goes on: the next turn lies behind the gap."""
    async with asyncio.timeout(60):
        (first, first_s), (second, second_s) = [final async for final in door(doors)]
    assert first and second
    assert first_s >= 0.64 + 0.24, "the silence that ends an utterance has passed on the stream's clock"
    assert second_s >= first_s + 0.64


async def test_silence_of_a_gap_is_that_of_its_encoding_on_each_channel(doors: Doors) -> None:
    """No words come of it: those of the first turn end with it."""
    for encoding, quiet in ((pb.AUDIO_ENCODING_MULAW, b"\xff"), (pb.AUDIO_ENCODING_ALAW, b"\xd5")):
        loud = (b"\x80\x00" if encoding == pb.AUDIO_ENCODING_MULAW else b"\xaa\x2a") * 4_000
        fields: dict[str, Any] = {"encoding": encoding, "sample_rate_hertz": 8000, "audio_channel_count": 2}
        endpointing = pb.Endpointing(trailing_silence_ms=300)
        call: Any = doors.stub.Recognize()
        await call.write(
            rpc.config(fill_gaps_after_ms=100, endpointing=endpointing, interim_results=False, **fields)
        )
        await call.write(rpc.audio(loud))
        ends = {(response := await call.read()).result.channel: response.result for _ in range(2)}
        assert sorted(ends) == [0, 1]
        assert {result.final_reason for result in ends.values()} == {pb.FINAL_REASON_ENDPOINT}
        sent = [rpc.config(endpointing=endpointing, **fields), rpc.audio(loud + quiet * 32_000)]
        for final in rpc.finals(await rpc.talk(doors.stub, sent)):
            if final.final_reason == pb.FINAL_REASON_ENDPOINT and final.utterance_index == 0:
                assert ends[final.channel].text == final.text
        call.cancel()


async def test_what_cannot_be_a_gap_is_told(doors: Doors) -> None:
    error = await rpc.failure(doors.stub, [rpc.config(fill_gaps_after_ms=99)])
    assert rpc.bad_fields(error) == ["config.fill_gaps_after_ms"]
    heard = await talk(doors.bridge, ['{"op":"init","sid":"a","gap_ms":10001}'])
    assert (heard.code, heard.error["field"]) == (1008, "gap_ms")
    for value in ("soon", "99", "-1", "1e3"):
        wrong = riva.opening(custom_configuration={"fill_gaps_after_ms": value})
        error = await rpc.told(lambda wrong=wrong: riva.talk(doors.riva, [wrong]))  # type: ignore[misc]
        assert rpc.bad_fields(error) == ["config.custom_configuration[fill_gaps_after_ms]"]

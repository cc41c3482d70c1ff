"""Streams on which nothing is sent for a while, as between the turns of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2_grpc

from tests.support.audio import cut, silence, speechlike
from tests.support.process import AsrService
from tests.support.rpc import audio, config, talk, text

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from tests.support import riva

KEEPALIVE_S = 2.0
"""In place of the 30 s of silence, and the 10 s for an answer, of the service; `make torture` has those."""
QUIET_S = 4.5 * KEEPALIVE_S
"""Longer than it takes to find a dead peer."""
PCM = speechlike(3.0, seed=44)
PINGING = [
    ("grpc.keepalive_time_ms", 1_500),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", 20_000),
]
"""A client that looks after its connection, often enough that a service which minded its pings would cut it off."""


class Quiet:
    """What the two protocols say in a stream with a long break; `said` is all that came back."""

    def __init__(self, open_call: Any, opening: Any, packets: list[Any]) -> None:
        self._call = open_call()
        self._opening, self._packets = opening, packets
        self.said: list[Any] = []

    async def run(self, seconds: float) -> None:
        half = len(self._packets) // 2
        await self._call.write(self._opening)
        for packet in self._packets[:half]:
            await self._call.write(packet)
        self.said.append(await self._call.read())  # it is being served
        await asyncio.sleep(seconds)  # the break is what is tested
        for packet in self._packets[half:]:
            await self._call.write(packet)
        await self._call.done_writing()
        while (response := await self._call.read()) is not grpc.aio.EOF:
            self.said.append(response)
        assert await self._call.code() is grpc.StatusCode.OK


@pytest.fixture
def service() -> Iterator[AsrService]:
    """A service of its own: nobody else keeps it awake."""
    with AsrService(ASR_MAX_STREAMS=8, ASR_MAX_LOAD=0, KEEPALIVE_S=KEEPALIVE_S) as process:
        yield process


async def test_streams_live_through_a_long_break_without_audio(service: AsrService) -> None:
    """Over both protocols, with pings of gRPC and without: then the rest of the audio, and the exact text."""
    async with (
        grpc.aio.insecure_channel(service.target) as silent,
        grpc.aio.insecure_channel(service.target, options=PINGING) as pinging,
    ):
        expected = text(await talk(asr_pb2_grpc.SpeechServiceStub(silent), [config(), audio(PCM)]))
        assert len(expected.split()) > 5
        packets = [audio(piece) for piece in cut(PCM, 640)]
        ours = [
            Quiet(asr_pb2_grpc.SpeechServiceStub(channel).Recognize, config(), packets)
            for channel in (silent, pinging)
        ]
        never = riva.opening(custom_configuration={"fill_gaps_after_ms": "0"})
        theirs = [
            Quiet(riva.stub_on(channel).StreamingRecognize, never, riva.packets(PCM))
            for channel in (silent, pinging)
        ]
        await asyncio.gather(*(stream.run(QUIET_S) for stream in (*ours, *theirs)))
        for stream in ours:
            assert text(stream.said) == expected
        for stream in theirs:
            results = [response.results[0] for response in stream.said]
            assert riva.text(results) == expected


@pytest.mark.parametrize("stop_history", [0, 320, 1500])
async def test_two_seconds_of_silence_in_a_burst_flush_over_riva(
    service: AsrService, stop_history: int
) -> None:
    """The final comes while the stream is open, and the next turn is like the first."""
    turn = speechlike(0.64, seed=3)
    fields = {"endpointing_config": riva.pause(stop_history)} if stop_history else {}
    async with grpc.aio.insecure_channel(service.target) as channel:
        expected = text(
            await talk(asr_pb2_grpc.SpeechServiceStub(channel), [config(), audio(turn + silence(2.0))])
        )
        assert expected
        call = riva.stub_on(channel).StreamingRecognize()
        await call.write(riva.opening(interims=False, **fields))
        for packet in riva.packets(turn):
            await call.write(packet)
        await call.write(riva.audio(silence(2.0)))
        response = await call.read()
        assert response.results[0].is_final
        assert response.results[0].alternatives[0].transcript == expected
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF, "silence has no results"

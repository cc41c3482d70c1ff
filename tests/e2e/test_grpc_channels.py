"""Streams of two channels over asr.v1."""

from __future__ import annotations

import grpc.aio
import numpy as np
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from tests.support.audio import cut, speechlike
from tests.support.process import AsrService
from tests.support.rpc import (
    Stub,
    audio,
    bad_fields,
    config,
    failure,
    finalize,
    finals,
    talk,
    transcribe,
    until_active,
)


def stereo(left: bytes, right: bytes) -> bytes:
    return np.stack([np.frombuffer(pcm, "<i2") for pcm in (left, right)], axis=1).tobytes()


@pytest.mark.parametrize("packet", [3, 640, 4000])
async def test_each_channel_is_recognized_by_itself(stub: Stub, packet: int) -> None:
    left, right = speechlike(1.0, seed=31), speechlike(1.0, seed=32)
    texts = [await transcribe(stub, left), await transcribe(stub, right)]
    packets = [audio(piece) for piece in cut(stereo(left, right), packet)]
    responses = await talk(stub, [config(audio_channel_count=2, stream_id="both"), *packets])
    assert all(response.stream_id == "both" for response in responses)
    for channel in (0, 1):
        results = [r.result for r in responses if r.result.channel == channel]
        (final,) = [r for r in results if r.is_final]
        assert final.text == texts[channel]
        assert final.final_reason == pb.FINAL_REASON_END_OF_STREAM
        assert final.utterance_index == 0
        assert any(not r.is_final for r in results)


async def test_a_finalize_is_answered_by_each_channel(stub: Stub) -> None:
    left, right = speechlike(1.0, seed=31), bytes(32_000)
    requests = [config(audio_channel_count=2), audio(stereo(left, right)), finalize("now")]
    made = finals(await talk(stub, requests))
    tagged = sorted((r.channel, bool(r.text)) for r in made if r.finalize_tag == "now")
    assert tagged == [(0, True), (1, False)]
    assert len(made) == 4


async def test_other_numbers_of_channels_are_refused(stub: Stub) -> None:
    for count in (0, 3):
        error = await failure(stub, [config(audio_channel_count=count)])
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad_fields(error) == ["config.audio_channel_count"]


async def test_two_channels_take_two_streams_or_none() -> None:
    with AsrService(ASR_MAX_STREAMS=3) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            call = stub.Recognize()
            await call.write(config(audio_channel_count=2))
            await until_active(stub, 2)
            error = await failure(stub, [config(audio_channel_count=2)])
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await transcribe(stub, speechlike(0.5))) != ""
            call.cancel()
            await until_active(stub, 0)


async def test_stability_of_interims_and_finals(stub: Stub) -> None:
    """The null model's words are one token each; only the last could still grow."""
    pcm = speechlike(1.0, seed=31)
    responses = await talk(stub, [config(), *(audio(piece) for piece in cut(pcm, 640))])
    for result in (response.result for response in responses):
        words = len(result.text.split())
        expected = 1.0 if result.is_final or not words else (words - 1) / words
        assert result.stability == pytest.approx(expected)

"""Punctuation and capitals: kept or dropped as asked for, where the model writes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc.aio
import pytest
from asr.v1 import asr_pb2_grpc

from tests.support.audio import speechlike
from tests.support.process import AsrService
from tests.support.rpc import Stub, audio, config, finals, talk, text, transcribe

PCM = speechlike(1.5, seed=8)


@pytest.fixture(scope="module")
def punctuating() -> Iterator[AsrService]:
    """A service whose model writes every word with a capital and a full stop."""
    with AsrService(FAULT="punctuation", ASR_MAX_STREAMS=4, ASR_MAX_LOAD=0) as process:
        yield process


@pytest.fixture
async def channel(punctuating: AsrService) -> AsyncIterator[grpc.aio.Channel]:
    """To that service."""
    async with grpc.aio.insecure_channel(punctuating.target) as open_channel:
        yield open_channel


async def test_recognize_keeps_it_unless_told_otherwise(channel: grpc.aio.Channel, stub: Stub) -> None:
    punctuated = asr_pb2_grpc.SpeechServiceStub(channel)
    bare = await transcribe(stub, PCM)  # a model that writes none, of which the other's words are
    full = " ".join(f"{word.capitalize()}." for word in bare.split())
    assert len(bare.split()) > 3
    for flag, expected in ((None, full), (True, full), (False, bare)):
        assert await transcribe(stub, PCM, automatic_punctuation=flag) == bare
        opening = config(word_times=True, automatic_punctuation=flag)
        responses = await talk(punctuated, [opening, audio(PCM)])
        assert text(responses) == expected
        (final,) = finals(responses)
        assert [word.word for word in final.words] == expected.split()
        assert all(expected.startswith(response.result.text) for response in responses)


async def test_riva_drops_it_unless_told_otherwise(channel: grpc.aio.Channel, stub: Stub) -> None:
    pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")
    from tests.support import riva

    bare = await transcribe(stub, PCM)
    full = " ".join(f"{word.capitalize()}." for word in bare.split())
    client = riva.stub_on(channel)
    for fields, expected in (
        ({}, bare),
        ({"enable_automatic_punctuation": False}, bare),
        ({"enable_automatic_punctuation": True}, full),
    ):
        opening = riva.opening(enable_word_time_offsets=True, **fields)
        results = await riva.talk(client, [opening, *riva.packets(PCM)])
        assert riva.text(results) == expected
        (final,) = riva.finals(results)
        assert [word.word for word in final.alternatives[0].words] == expected.split()
        request = riva.rasr.RecognizeRequest(config=riva.recognition(**fields), audio=PCM)
        response = await client.Recognize(request)
        assert response.results[0].alternatives[0].transcript == expected

"""The silence that follows a finalized segment, as the service adds it by default."""

from __future__ import annotations

from collections.abc import Iterator

import grpc.aio
import pytest
from asr.v1 import asr_pb2_grpc

from tests.support.audio import silence, speechlike
from tests.support.process import AsrService
from tests.support.rpc import audio, config, finalize, finals, talk, transcribe

PCM = speechlike(1.03, seed=12)
ADDED_S = 0.08


@pytest.fixture
def service() -> Iterator[AsrService]:
    """A service that adds what it adds unless told otherwise."""
    with AsrService(ASR_FINALIZE_SILENCE_MS="", ASR_MAX_STREAMS=2, ASR_MAX_LOAD=0) as process:
        yield process


async def test_finalize_hears_it_and_the_streams_end_does_not(service: AsrService) -> None:
    async with grpc.aio.insecure_channel(service.target) as channel:
        stub = asr_pb2_grpc.SpeechServiceStub(channel)
        bare, followed = await transcribe(stub, PCM), await transcribe(stub, PCM + silence(ADDED_S))
        assert bare != followed, "the null model hears the difference"
        requests = [config(), audio(PCM), finalize("one"), audio(PCM)]
        responses = await talk(stub, requests)
        assert [final.text for final in finals(responses)] == [followed, bare]
        ends = [response.audio_processed_ms for response in responses if response.result.is_final]
        assert ends == [1030, 2060]

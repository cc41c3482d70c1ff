"""What tests say to the service in Riva's protocol."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Any

import riva.client.proto.riva_asr_pb2 as rasr
import riva.client.proto.riva_asr_pb2_grpc as rasr_grpc
import riva.client.proto.riva_audio_pb2 as raudio

from tests.support.audio import cut

LINEAR = raudio.LINEAR_PCM


def stub_on(channel: Any) -> Any:
    """A client of the service on an aio channel."""
    return rasr_grpc.RivaSpeechRecognitionStub(channel)


def recognition(**fields: Any) -> rasr.RecognitionConfig:
    """A config as the frameworks send it."""
    defaults = {
        "encoding": LINEAR,
        "sample_rate_hertz": 16_000,
        "language_code": "en-US",
        "audio_channel_count": 1,
    }
    return rasr.RecognitionConfig(**(defaults | fields))


def opening(*, interims: bool = True, **fields: Any) -> rasr.StreamingRecognizeRequest:
    """The first message of a stream."""
    config = rasr.StreamingRecognitionConfig(config=recognition(**fields), interim_results=interims)
    return rasr.StreamingRecognizeRequest(streaming_config=config)


def audio(data: bytes, **runtime: str) -> rasr.StreamingRecognizeRequest:
    """An audio message, maybe with runtime_config."""
    return rasr.StreamingRecognizeRequest(audio_content=data, runtime_config=runtime)


def force_final() -> rasr.StreamingRecognizeRequest:
    """Asks for a final, without audio."""
    return rasr.StreamingRecognizeRequest(runtime_config={"force_eou": "true"})


def pause(milliseconds: int) -> rasr.EndpointingConfig:
    """Endpoints as Pipecat asks for them."""
    return rasr.EndpointingConfig(stop_history=milliseconds)


def packets(pcm: bytes, size: int = 640) -> list[rasr.StreamingRecognizeRequest]:
    """Audio messages of so many bytes."""
    return [audio(piece) for piece in cut(pcm, size)]


async def talk(stub: Any, requests: Iterable[Any] | AsyncIterable[Any], **options: Any) -> list[Any]:
    """Sends everything, half-closes, and returns the results that came back: one of each response."""
    responses = [response async for response in stub.StreamingRecognize(requests, **options)]
    assert all(len(response.results) == 1 for response in responses), "one result per response"
    return [response.results[0] for response in responses]


def finals(results: Iterable[Any]) -> list[Any]:
    """The finals among the results."""
    return [result for result in results if result.is_final]


def text(results: Iterable[Any]) -> str:
    """The finals' text."""
    return " ".join(result.alternatives[0].transcript for result in finals(results))

"""What tests say to the service over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.support.audio import cut, speechlike
from tests.support.process import PATIENCE_S

if TYPE_CHECKING:
    Stub = asr_pb2_grpc.SpeechServiceAsyncStub  # what a stub on an aio channel is, for type checkers only
else:
    Stub = asr_pb2_grpc.SpeechServiceStub

MADE_UP = "Internal error from Core"
"""Details of a status that is not the service's."""


def config(**fields: Any) -> pb.RecognizeRequest:
    """A config message."""
    return pb.RecognizeRequest(config=pb.RecognitionConfig(**fields))


def audio(data: bytes) -> pb.RecognizeRequest:
    """An audio message."""
    return pb.RecognizeRequest(audio=data)


def finalize(tag: str = "") -> pb.RecognizeRequest:
    """A finalize message."""
    return pb.RecognizeRequest(finalize=pb.Finalize(tag=tag))


async def talk(
    stub: Stub, requests: Iterable[pb.RecognizeRequest] | AsyncIterable[pb.RecognizeRequest]
) -> list[pb.RecognizeResponse]:
    """Sends everything, half-closes, and returns all that came back."""
    return [response async for response in stub.Recognize(requests)]  # type: ignore[arg-type]


async def transcribe(stub: Stub, pcm: bytes, packet: int = 640, **fields: Any) -> str:
    """The finals' text of a whole stream."""
    requests = [config(**fields), *(audio(piece) for piece in cut(pcm, packet))]
    return text(await talk(stub, requests))


def finals(responses: Iterable[pb.RecognizeResponse]) -> list[pb.RecognitionResult]:
    """The finals among the responses."""
    return [response.result for response in responses if response.result.is_final]


def text(responses: Iterable[pb.RecognizeResponse]) -> str:
    """The finals' text."""
    return " ".join(result.text for result in finals(responses) if result.text)


async def failure(stub: Stub, requests: Iterable[pb.RecognizeRequest]) -> grpc.aio.AioRpcError:
    """The error a stream of these requests ends with."""
    sent = list(requests)
    return await told(lambda: talk(stub, sent))


async def told(attempt: Callable[[], Awaitable[object]]) -> grpc.aio.AioRpcError:
    """The error of the service that an attempt ends with.

    grpc.aio's client makes up an INTERNAL of its own where the stream ends while it writes
    (https://github.com/grpc/grpc/issues/36066). That tells nothing of the service, so it is tried again.
    """
    for _ in range(20):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attempt()
        if caught.value.details() != MADE_UP:
            return caught.value
    raise AssertionError("the client never got as far as the service's status")


def details(error: grpc.aio.AioRpcError) -> dict[str, Message]:
    """The google.rpc details of an error by the name of their message."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details with {error}"
    found: dict[str, Message] = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        message = getattr(error_details_pb2, name)()
        packed.Unpack(message)
        found[name] = message
    return found


def bad_fields(error: grpc.aio.AioRpcError) -> list[str]:
    """Names of the fields an INVALID_ARGUMENT blames."""
    return [violation.field for violation in details(error)["BadRequest"].field_violations]  # type: ignore[attr-defined]


def retry_after_s(error: grpc.aio.AioRpcError) -> float:
    """When to come back."""
    delay = details(error)["RetryInfo"].retry_delay  # type: ignore[attr-defined]
    return float(delay.ToTimedelta().total_seconds())


async def until_active(stub: Stub, count: int) -> None:
    """Waits until the service says that so many streams are open.

    Asked again and again: that a slot is back is what tests of it have to see from outside, and nothing of the service
    pushes it; its log line comes when the call is over, which may be a turn of the engine before.
    """
    async with asyncio.timeout(PATIENCE_S):
        while (await stub.GetServiceInfo(pb.GetServiceInfoRequest())).active_streams != count:  # noqa: ASYNC110 - another process cannot set our event
            await asyncio.sleep(0.01)


class Bystander:
    """A live stream that others must not disturb: it is open while they misbehave, and its text must be exact."""

    def __init__(self, stub: Stub, expected: str, pcm: bytes) -> None:
        """`expected` is the text of `pcm` on a service of its own."""
        self._expected = expected
        self._packets = cut(pcm, 640)
        self._call = stub.Recognize()

    @staticmethod
    def pcm() -> bytes:
        """Its audio."""
        return speechlike(2.0, seed=99)

    async def __aenter__(self) -> Bystander:
        await self._call.write(config())
        for packet in self._packets[: len(self._packets) // 2]:
            await self._call.write(audio(packet))
        self._responses = aiter(self._call)
        async for response in self._responses:
            if response.result.text:  # it is being served
                break
        return self

    async def __aexit__(self, *_: object) -> None:
        for packet in self._packets[len(self._packets) // 2 :]:
            await self._call.write(audio(packet))
        await self._call.done_writing()
        responses = [response async for response in self._responses]
        assert text(responses) == self._expected

"""Sends a recording over one `Recognize` call, as fast as the service takes it, and collects its finals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import grpc
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

T = TypeVar("T")

_ENDED = (aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError)
"""What grpc.aio raises for writing to a call that the service has ended."""
_MADE_UP = (grpc.StatusCode.INTERNAL, "Internal error from Core")
"""The status that grpc.aio sets when a write fails (https://github.com/grpc/grpc/issues/36066)."""
_STATUS_S = 2.0
"""How long the service's own status may take to follow it."""


class Refused(Exception):
    """The service has not recognized a recording; the message is one line.

    Attributes:
        code: the call's status.
        retry_after_s: when to come back, as the service says; None if it does not.
        admitted: whether the call was accepted before.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        details: str,
        retry_after_s: float | None = None,
        *,
        admitted: bool = False,
    ) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.retry_after_s = retry_after_s
        self.admitted = admitted


async def recognized(
    stub: asr_pb2_grpc.SpeechServiceAsyncStub,
    config: pb.RecognitionConfig,
    packets: Iterator[bytes],
    metadata: Sequence[tuple[str, str]],
    on_sent: Callable[[int], None],
) -> list[pb.RecognizeResponse]:
    """Runs a call to its end; returns its finals.

    Args:
        stub: of the service.
        config: of the stream.
        packets: the audio, read in a thread, as decoding takes its time.
        metadata: of the call.
        on_sent: told of the bytes of each packet once the service has taken it; of 0 once it has admitted the call.

    Raises:
        Refused: the service refused or failed the call.
        WavError: the audio cannot be read to its end.
    """
    call = stub.Recognize(metadata=tuple(metadata))
    status = _Status(call)
    admitted = False

    async def finals() -> list[pb.RecognizeResponse]:
        return [response async for response in call if response.result.is_final]

    reading = asyncio.create_task(finals())
    try:
        await call.write(pb.RecognizeRequest(config=config))
        admitted = any(key == "x-stream-id" for key, _ in await call.initial_metadata())
        if admitted:
            on_sent(0)
            while packet := await in_thread(next, packets, b""):
                await call.write(pb.RecognizeRequest(audio=packet))
                on_sent(len(packet))
            await call.done_writing()
        return await reading
    except _ENDED:
        raise await status.refusal(admitted) from None
    finally:
        call.cancel()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Runs a function in a thread, and waits for its end even if it is cancelled: what it uses may be closed then."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(running)
    finally:
        while not running.done():
            await asyncio.wait({running})


def refused(error: aio.AioRpcError) -> Refused:
    """Reads the error of a unary call."""
    return _refused(error.code(), error.details() or "", error.trailing_metadata())


def _refused(
    code: grpc.StatusCode, details: str, trailing: aio.Metadata | None, *, admitted: bool = False
) -> Refused:
    after_s = None
    for key, value in trailing or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            after_s = _retry_after_s(value)
    return Refused(code, details, after_s, admitted=admitted)


def _retry_after_s(serialized: bytes) -> float | None:
    try:
        for detail in status_pb2.Status.FromString(serialized).details:
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(retry):
                return float(retry.retry_delay.ToTimedelta().total_seconds())
    except DecodeError:
        # A status that cannot be read in full is still a status.
        pass
    return None


class _Status:
    """The status of a call as the service gave it, whether grpc.aio sets one of its own before or after it."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._own: asyncio.Future[Refused] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note)

    def _note(self, _: object = None) -> None:
        shown = self._shown()
        if not self._own.done() and (shown.code, str(shown)) != (
            _MADE_UP[0],
            f"{_MADE_UP[0].name}: {_MADE_UP[1]}",
        ):
            self._own.set_result(shown)

    def _shown(self) -> Refused:
        """The status that the ended call shows now."""
        call = self._call
        return _refused(
            _at_once(call.code()), _at_once(call.details()) or "", _at_once(call.trailing_metadata())
        )

    async def refusal(self, admitted: bool) -> Refused:
        """Waits for the end of a call that the service has ended; says why it did."""
        await self._call.code()
        self._note()
        try:
            found = await asyncio.wait_for(asyncio.shield(self._own), _STATUS_S)
        except TimeoutError:
            found = Refused(
                grpc.StatusCode.UNAVAILABLE, "the service ended the stream, and its reason is lost"
            )
        found.admitted = admitted
        return found


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Returns the result of a coroutine that does not wait, such as those that tell the status of an ended call."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    finally:
        coroutine.close()
    raise RuntimeError("the call has not ended")

"""One `Recognize` call, which tells the service's status whatever grpc.aio makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from asr.v1 import asr_pb2, asr_pb2_grpc
from grpc import aio

_ADMITTED_KEY = "x-stream-id"
"""In the call's initial metadata once the service has accepted the stream."""

_DETAILS_KEY = "grpc-status-details-bin"
_WRITE_FAILED = "Internal error from Core"
_SERVICE_STATUS_S = 2.0
"""How long the service's status may take to follow one of grpc.aio's own."""

_ENDED = (aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError)
"""What grpc.aio raises for writing to a stream that the service has ended."""


_Recognize = aio.StreamStreamCall[asr_pb2.RecognizeRequest, asr_pb2.RecognizeResponse]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: number and message of its gRPC status, and its serialized `google.rpc.Status` (b"" if none)."""

    number: int
    message: str
    details: bytes

    @property
    def ok(self) -> bool:
        """Whether the service ended the stream in order."""
        return self.number == 0

    @property
    def made_up(self) -> bool:
        """Whether it is the status that grpc.aio sets when a write fails."""
        return self.number == grpc.StatusCode.INTERNAL.value[0] and self.message == _WRITE_FAILED


class Call:
    """A stream to the service. One task writes, one reads.

    grpc.aio sets a status of its own, INTERNAL, when a write fails because the service has just ended the stream
    (https://github.com/grpc/grpc/issues/36066), before or after it sets the service's. It tells only of the first that
    is set, and shows only the last. So the first is noted, and `outcome` gives whichever is the service's.
    """

    def __init__(
        self, stub: asr_pb2_grpc.SpeechServiceAsyncStub, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Starts the call with the given metadata, on the running event loop."""
        self._call = stub.Recognize(metadata=tuple(metadata))
        self._status: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._call.add_done_callback(self._note)

    def _note(self, call: _Recognize) -> None:
        outcome = _shown(call)
        if not outcome.made_up and not self._status.done():
            self._status.set_result(outcome)

    async def admitted(self) -> bool:
        """Waits for the service's answer: whether it accepted the stream. Cancelling this cancels the call."""
        return any(key == _ADMITTED_KEY for key, _ in await self._call.initial_metadata())

    async def write(self, request: asr_pb2.RecognizeRequest) -> bool:
        """Sends a request, waiting while the service takes no more; False once the service has ended the stream."""
        try:
            await self._call.write(request)
        except _ENDED:
            return False
        return True

    async def half_close(self) -> None:
        """Tells the service that no more requests follow."""
        try:
            await self._call.done_writing()
        except _ENDED:
            # `outcome` tells why.
            pass

    async def responses(self) -> AsyncIterator[asr_pb2.RecognizeResponse]:
        """Yields every response up to the end of the stream, whatever its status."""
        # `read()` would drop responses that have arrived as soon as the status has arrived too.
        try:
            async for response in self._call:
                yield response
        except aio.AioRpcError:
            # `outcome` tells why.
            pass

    async def outcome(self) -> Outcome:
        """Waits for the end of the call; returns how it ended."""
        await self._call.code()
        self._note(self._call)
        try:
            # A status of grpc.aio's own is followed by the service's, unless there is none to follow.
            return await asyncio.wait_for(asyncio.shield(self._status), _SERVICE_STATUS_S)
        except TimeoutError:
            return _shown(self._call)

    def cancel(self) -> None:
        """Ends the call now, if it has not ended."""
        self._call.cancel()

    def release(self) -> None:
        """Lets go of a call that has ended or is cancelled; nothing else is asked of this object any more.

        A channel that is closed keeps its connection as long as there are calls of it, and the frames of tasks that
        were cancelled may hold this object until garbage is collected.
        """
        del self._call


def _shown(call: _Recognize) -> Outcome:
    """The status that an ended call shows now."""
    return Outcome(
        _at_once(call.code()).value[0],
        _at_once(call.details()) or "",
        status_details(_at_once(call.trailing_metadata())),
    )


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Returns the result of a coroutine that does not wait, such as those that tell the status of an ended call."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    finally:
        coroutine.close()
    raise RuntimeError("the call has not ended")


def status_details(trailing: aio.Metadata | None) -> bytes:
    """Returns the serialized `google.rpc.Status` in trailing metadata, b"" if there is none."""
    for key, value in trailing or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return value
    return b""

"""Serves whole recordings, sent by POST: each goes through one `Recognize` call, and its results are the response.

body --pieces--> call          as fast as the service takes it: TCP holds the client back
response <--results-- call     at the end, or as events while they come
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
from collections.abc import AsyncIterator, Callable
from typing import IO

from ws_bridge.call import Call
from ws_bridge.call_metadata import credentials, trace_context
from ws_bridge.channels import Channels
from ws_bridge.config import Settings
from ws_bridge.dialect import HttpAnswer
from ws_bridge.dialects.doors import find_file_door
from ws_bridge.file_dialect import FileDoor, FileRequest
from ws_bridge.form import read_form
from ws_bridge.handshake import Handshake, read_handshake
from ws_bridge.http_exchange import BodyLate, HttpExchange
from ws_bridge.info import what_is_served
from ws_bridge.messages import Audio, Init
from ws_bridge.metrics import Metrics
from ws_bridge.recordings import Body, open_recording
from ws_bridge.status import RETRY_AFTER_MS, Failure, Refused, from_grpc
from ws_bridge.wire import to_requests

log = logging.getLogger(__name__)

_QUIET_PINGS = 3
_FORM_FILE = "file"


class Uploads:
    """Serves the recordings of all clients of the process.

    Args:
        settings: of the bridge.
        channels: to the service.
        metrics: count the recordings.
        refuses: says why nothing is taken now, "" if it is.
        counted: called when `count` has changed.
    """

    def __init__(
        self,
        settings: Settings,
        channels: Channels,
        metrics: Metrics,
        refuses: Callable[[], str],
        counted: Callable[[], object],
    ) -> None:
        self._settings = settings
        self._channels = channels
        self._metrics = metrics
        self._refuses = refuses
        self._counted = counted
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: Failure | None = None

    @property
    def count(self) -> int:
        """How many are being served."""
        return len(self._tasks)

    def exchange(self) -> HttpExchange:
        """Makes what serves one request."""
        settings = self._settings
        return HttpExchange(
            self._serve,
            # The longest line, and what is shorter.
            max_header_bytes=settings.bridge_max_header_bytes + 16 * 1024,
            patience_s=settings.bridge_open_s,
            quiet_s=_QUIET_PINGS * settings.bridge_ping_s,
        )

    async def drain(self, timeout_s: float, failure: Failure) -> None:
        """Waits for recordings to be done; then ends the rest with a failure."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout_s)
        self._over = failure
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=self._settings.bridge_close_s)

    async def _serve(self, exchange: HttpExchange) -> None:
        task = asyncio.current_task()
        assert task is not None
        handshake = read_handshake(exchange.target, exchange.headers)
        door = find_file_door(handshake.path)
        if door is None:
            await _send(exchange, _status(404, "there is nothing to POST to here"))
            return
        if refusal := self._refuses():
            self._metrics.refused("draining" if refusal == "draining" else "too_many")
            await _send(exchange, _status(503, refusal, retry_after_ms=1000))
            return
        self._tasks.add(task)
        self._counted()
        upload = _Upload(exchange, handshake, door, self._settings, self._channels)
        began = exchange.loop.time()
        try:
            outcome = await upload.run()
        except (asyncio.CancelledError, ConnectionError):
            # The client has gone, or `drain` ends what is left.
            outcome = "gone"
            if self._over is not None:
                outcome = self._over.code
                with contextlib.suppress(ConnectionError):
                    await upload.refuse(self._over)
        finally:
            self._tasks.discard(task)
            self._counted()
        self._metrics.uploaded(upload.status)
        fields = {
            "sid": upload.sid,
            "outcome": outcome,
            "status": upload.status,
            "seconds": round(exchange.loop.time() - began, 3),
            "audio_bytes": upload.size,
        }
        log.log(
            logging.WARNING if upload.status == 500 else logging.INFO,
            "upload ended",
            extra={"fields": fields},
        )


class _Upload:
    """Serves one recording.

    Attributes:
        sid: name of its stream, "" before it is known.
        status: of the response, 0 before it begins.
        size: bytes of the recording so far.
    """

    def __init__(
        self,
        exchange: HttpExchange,
        handshake: Handshake,
        door: FileDoor,
        settings: Settings,
        channels: Channels,
    ) -> None:
        self._exchange = exchange
        self._handshake = handshake
        self._door = door
        self._settings = settings
        self._channels = channels
        self._request: FileRequest | None = None
        self._hash = hashlib.sha256(usedforsecurity=False)
        self.sid = ""
        self.status = 0
        self.size = 0

    async def run(self) -> str:
        """Serves it; returns how it ended."""
        try:
            await self._recognize()
        except Refused as refused:
            await self.refuse(refused.failure)
            return refused.failure.code
        except BodyLate:
            late = Failure("deadline_exceeded", "nothing of the recording came for too long", http=408)
            await self.refuse(late)
            return late.code
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("an upload failed", extra={"fields": {"sid": self.sid}})
            await self.refuse(Failure("internal", "the bridge failed"))
            return "internal"
        return "ok"

    async def refuse(self, failure: Failure) -> None:
        """Tells of a failure: as the response, or as its last event."""
        if self.status == 0:
            answer = self._door.refuse(failure)
            self.status = answer.status
            await _send(self._exchange, answer)
        elif self._request is not None:
            for event in self._request.failed(failure):
                await self._exchange.send(event.encode())
            self._exchange.finish()

    async def _recognize(self) -> None:
        exchange, settings = self._exchange, self._settings
        origins = self._handshake.headers.get_all("Origin")
        if settings.origins and any(origin not in settings.origins for origin in origins):
            raise Refused(
                Failure("permission_denied", "pages of this origin are not admitted here", "Origin")
            )
        self._request = request = self._door.open(self._handshake)
        self.sid = request.sid
        metadata = credentials(request.key, exchange.headers)
        served = await what_is_served(self._channels, metadata, settings.bridge_open_s, self._door.words)
        if isinstance(served, Failure):
            raise Refused(served)
        request.learn(served)
        body = Body(exchange.read, settings.bridge_max_upload_bytes)
        file: IO[bytes] | None = None
        try:
            if request.is_form:
                form = await read_form(body, exchange.headers.get("Content-Type", ""), _FORM_FILE)
                file = form.file
                request.read_form(form.fields)
                body = Body.of_file(file, settings.bridge_max_upload_bytes)
            body.tap = self._tap
            found = await open_recording(body, request.raw, separate_channels=request.separate_channels)
            await self._call(request, request.init(found.format), found.pieces)
        finally:
            if file is not None:
                file.close()
        answer = request.answer(self._hash.hexdigest())
        if self.status:
            await exchange.send(answer.body.encode())
            exchange.finish()
        else:
            self.status = answer.status
            await _send(exchange, answer)

    def _tap(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)

    async def _call(self, request: FileRequest, init: Init, pieces: AsyncIterator[bytes]) -> None:
        """Sends the audio and takes the results, until both are over."""
        headers = self._exchange.headers
        with self._channels.lease() as stub:
            call = Call(stub, [*credentials(init.key, headers), *trace_context(headers)])
            results = asyncio.create_task(self._results(request, call))
            try:
                await _write(call, init, pieces, results)
                await results
            finally:
                call.cancel()
                results.cancel()
                await asyncio.wait([results])
                call.release()

    async def _results(self, request: FileRequest, call: Call) -> None:
        words = self._door.words
        try:
            async with asyncio.timeout(self._settings.bridge_open_s):
                admitted = await call.admitted()
        except TimeoutError:
            message = "the speech service does not answer; try again later"
            raise Refused(Failure("unavailable", message, retry_after_ms=RETRY_AFTER_MS)) from None
        async for response in call.responses():
            events = request.take(response)
            if request.is_streamed and not self.status:
                self.status = 200
                await self._exchange.start(200, _EVENT_HEADERS)
            for event in events:
                await self._exchange.send(event.encode())
        how = await call.outcome()
        if not how.ok:
            raise Refused(from_grpc(how.number, how.message, how.details, admitted=admitted, words=words))


_EVENT_HEADERS = (("Content-Type", "text/event-stream"), ("Cache-Control", "no-store"))


async def _write(call: Call, init: Init, pieces: AsyncIterator[bytes], results: asyncio.Task[None]) -> None:
    """Sends everything, or as much as the service takes."""
    for request in to_requests(init):
        if not await call.write(request):
            return
    async for piece in pieces:
        for request in to_requests(Audio(piece)):
            if results.done() or not await call.write(request):
                return
    await call.half_close()


def _status(status: int, says: str, retry_after_ms: int | None = None) -> HttpAnswer:
    """An answer of the bridge's own, as on its other pages."""
    body = json.dumps({"status": says}) + "\n"
    return HttpAnswer(status, body, retry_after_ms=retry_after_ms)


async def _send(exchange: HttpExchange, answer: HttpAnswer) -> None:
    headers = [("Content-Type", answer.content_type), ("Cache-Control", "no-store"), *answer.headers]
    if answer.retry_after_ms is not None:
        headers.append(("Retry-After", str(math.ceil(answer.retry_after_ms / 1000))))
    await exchange.respond(answer.status, answer.body.encode(), headers)

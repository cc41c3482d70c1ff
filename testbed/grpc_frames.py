"""Runs paced streams over gRPC at next to no cost, for where the cores are shared with what is measured.

A grpc.aio client spends about as much on a packet as the server does. Here packets are HTTP/2 frames made in advance:
one timer, and one write per connection and tick with the packets of all its streams that are due. Only what a client of
this service needs of HTTP/2 (RFC 9113) and HPACK (RFC 7541) is there; a header table of size 0 keeps headers literal.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import cast

from asr.v1 import asr_pb2 as pb

from clients.loadgen.plan import RATE, Heard, Plan
from clients.loadgen.streams import ASKED_FOR, METHOD

TICK_S = 0.005
END_S = 60.0
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WIDE = (1 << 30).to_bytes(4, "big")
_START_WINDOW = 65_535


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Makes one HTTP/2 frame."""
    return b"".join(
        (len(payload).to_bytes(3, "big"), bytes((kind, flags)), stream.to_bytes(4, "big"), payload)
    )


def message(request: pb.RecognizeRequest) -> bytes:
    """Makes one gRPC message, not compressed."""
    data = request.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


def request_headers(authority: str) -> bytes:
    """Makes the headers of a POST to `Recognize`, in HPACK without tables of its own."""

    def text(value: str) -> bytes:
        return bytes((len(value),)) + value.encode()

    method, scheme, path, host, content_type = b"\x83", b"\x86", b"\x04", b"\x01", b"\x0f\x10"
    kind = content_type + text("application/grpc")
    return (
        method
        + scheme
        + path
        + text(METHOD)
        + host
        + text(authority)
        + kind
        + b"\0"
        + text("te")
        + text("trailers")
    )


def grpc_status(headers: bytes) -> str:
    """Finds the value of a literal `grpc-status`; "" if there is none."""
    _, found, rest = headers.partition(b"grpc-status")
    return rest[1 : 1 + rest[0]].decode("ascii", "replace") if found else ""


@dataclass(slots=True)
class _Stream:
    id: int
    header: bytes  # of a packet's frame, but for its length
    starts: float
    done: asyncio.Future[None]
    heard: Heard = field(default_factory=Heard)
    window: int = _START_WINDOW
    sent: int = 0
    inbox: bytearray = field(default_factory=bytearray)


class Connection(asyncio.Protocol):
    """One HTTP/2 connection with its streams."""

    def __init__(self, authority: str, plan: Plan) -> None:
        self._plan = plan
        self._headers = request_headers(authority)
        self._bodies = [message(pb.RecognizeRequest(audio=packet)) for packet in plan.packets]
        self._count, self._finalize_every = plan.count, plan.finalize_every  # which it works out each time
        self._period = plan.packet_ms / 1000
        self._finalize = message(pb.RecognizeRequest(finalize=pb.Finalize()))
        self._buffer = bytearray()
        self._window = self._initial = _START_WINDOW
        self._next = 1
        self.streams: dict[int, _Stream] = {}
        self._turns: list[tuple[float, int, _Stream]] = []  # a heap: when the next packet of each is due

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says hello: no header table, no pushes, windows that are never full."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop has its own kind
        settings = b"\0\1\0\0\0\0" + b"\0\2\0\0\0\0" + b"\0\4" + _WIDE
        self._transport.write(_PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW, 0, 0, _WIDE))

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends every stream that is left: it has lost its service."""
        for stream in list(self.streams.values()):
            self._end(stream, "LOST")

    def add(self, name: str, starts: float) -> asyncio.Future[None]:
        """Opens a stream now that begins to send at `starts`; done when it has ended."""
        number, self._next = self._next, self._next + 2
        header = bytes((_DATA, 0)) + number.to_bytes(4, "big")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stream = _Stream(number, header, starts, done, window=self._initial)
        self.streams[number] = stream
        heappush(self._turns, (self._due(stream), number, stream))
        config = message(
            pb.RecognizeRequest(config=pb.RecognitionConfig(sample_rate_hertz=RATE, stream_id=name))
        )
        stream.heard.started = starts
        self._take(stream, len(config))
        self._transport.write(
            frame(_HEADERS, _END_HEADERS, number, self._headers) + frame(_DATA, 0, number, config)
        )
        return done

    def send_due(self, now: float) -> None:
        """Sends every packet that is due, in one write."""
        out: list[bytes] = []
        turns, came = self._turns, []
        while turns and turns[0][0] <= now:
            stream = heappop(turns)[2]
            self._packets(stream, now, out)
            came.append(stream)  # not into the heap yet: what the window holds back is still due
        for stream in came:
            if stream.sent < self._count and stream.id in self.streams:
                heappush(turns, (self._due(stream), stream.id, stream))
        if out:
            self._transport.write(b"".join(out))

    def _due(self, stream: _Stream) -> float:
        return stream.starts + (stream.sent + 1) * self._period

    def _packets(self, stream: _Stream, now: float, out: list[bytes]) -> None:
        heard = stream.heard
        while stream.sent < self._count:
            due = self._due(stream)
            place = stream.sent % len(self._bodies)
            body = self._bodies[place]
            if due > now or min(stream.window, self._window) < len(body):
                return
            stream.sent += 1
            heard.sent.append(now)
            heard.late.append(now - due)
            heard.bytes += len(self._plan.packets[place])
            self._take(stream, len(body))
            out += (len(body).to_bytes(3, "big"), stream.header, body)
            if self._finalize_every and stream.sent % self._finalize_every == 0:
                heard.asked.append(now)
                self._take(stream, len(self._finalize))
                out += (len(self._finalize).to_bytes(3, "big"), stream.header, self._finalize)
            if stream.sent == self._count:
                heard.asked.append(now)
                out.append(frame(_DATA, _END_STREAM, stream.id, b""))

    def _take(self, stream: _Stream, size: int) -> None:
        stream.window -= size
        self._window -= size

    def data_received(self, data: bytes) -> None:
        """Takes in whole frames."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= 9:
            size = int.from_bytes(buffer[start : start + 3], "big")
            if len(buffer) - start < 9 + size:
                break
            kind, flags = buffer[start + 3], buffer[start + 4]
            number = int.from_bytes(buffer[start + 5 : start + 9], "big")
            self._frame(kind, flags, number, bytes(buffer[start + 9 : start + 9 + size]))
            start += 9 + size
        del buffer[:start]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        if kind == _DATA and stream is not None:
            self._responses(stream, payload)
        elif kind == _HEADERS and stream is not None and flags & _END_STREAM:
            status = grpc_status(payload)
            self._end(stream, "ok" if status == "0" else f"status {status}")
        elif kind == _RST and stream is not None:
            self._end(stream, "RESET")
        elif kind == _WINDOW:
            more = int.from_bytes(payload, "big")
            if stream is not None:
                stream.window += more
            elif number == 0:
                self._window += more
        elif kind == _SETTINGS and not flags & _ACK:
            self._settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._transport.write(frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self._transport.close()

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            if int.from_bytes(payload[at : at + 2], "big") == 4:  # the windows streams start with
                initial = int.from_bytes(payload[at + 2 : at + 6], "big")
                for stream in self.streams.values():
                    stream.window += initial - self._initial
                self._initial = initial
        self._transport.write(frame(_SETTINGS, _ACK, 0, b""))

    def _responses(self, stream: _Stream, payload: bytes) -> None:
        inbox = stream.inbox
        inbox += payload
        while len(inbox) >= 5 and len(inbox) >= 5 + (size := int.from_bytes(inbox[1:5], "big")):
            response = pb.RecognizeResponse.FromString(bytes(inbox[5 : 5 + size]))
            del inbox[: 5 + size]
            result = response.result
            if result.is_final:
                stream.heard.final(result.text, asked_for=result.final_reason in ASKED_FOR)
            else:
                stream.heard.interim(response.audio_processed_ms, self._plan.packet_ms)

    def _end(self, stream: _Stream, outcome: str) -> None:
        stream.heard.outcome = outcome
        self.streams.pop(stream.id, None)
        if not stream.done.done():
            stream.done.set_result(None)

    def close(self) -> None:
        """Drops the connection."""
        self._transport.close()


async def run_streams(
    target: str, plan: Plan, streams: int, ramp_s: float, connections: int = 4
) -> list[Heard]:
    """Runs so many paced streams that start evenly over `ramp_s`; returns what each heard."""
    loop = asyncio.get_running_loop()
    host, _, port = target.rpartition(":")
    lines: list[Connection] = []
    for _ in range(min(connections, streams)):
        _, line = await loop.create_connection(lambda: Connection(target, plan), host, int(port))
        lines.append(line)
    begin = time.monotonic() + 0.1
    heard: list[Heard] = []
    done: list[asyncio.Future[None]] = []
    for index in range(streams):
        line = lines[index % len(lines)]
        done.append(line.add(f"load-{index}", begin + ramp_s * index / streams))
        heard.append(next(reversed(line.streams.values())).heard)
    ended = asyncio.gather(*done)
    deadline = begin + ramp_s + plan.seconds + END_S
    tick = begin
    while not ended.done() and time.monotonic() < deadline:
        now = time.monotonic()
        for line in lines:
            line.send_due(now)
        tick = max(tick + TICK_S, time.monotonic())
        await asyncio.sleep(tick - time.monotonic())
    for line in lines:
        line.close()
    ended.cancel()
    for one in heard:
        one.outcome = one.outcome or "NO_FINAL"
    return heard

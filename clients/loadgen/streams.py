"""One paced stream of the load generator, over gRPC or WebSocket.

Cheap on purpose, since the generator often shares its cores with what it measures: requests are serialized once and
sent as bytes, every stream sends the same packets, and times go into plain lists.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import grpc.aio
import websockets
from asr.v1 import asr_pb2 as pb

from clients.access import Access
from clients.handshake import NoConnection, connect
from clients.wav import duration_s, packet_bytes, packets

METHOD = "/asr.v1.SpeechService/Recognize"
RATE = 16_000
DIRECT = Access()
"""No TLS and no key."""
FINAL_S = 60.0
"""Longest wait for the last final after the end of the audio."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every stream sends.

    Attributes:
        packets: 16-bit mono audio in packets of `packet_ms`, all of them whole, sent round and round.
        seconds: how long a stream sends.
        finalize_every_s: how often it asks for a final on its way; 0 for never.
        realtime: paced, or as fast as the service takes it.
    """

    packets: tuple[bytes, ...]
    packet_ms: float
    seconds: float
    finalize_every_s: float = 0.0
    realtime: bool = True

    @classmethod
    def of(
        cls,
        pcm: bytes,
        packet_ms: float,
        seconds: float,
        *,
        finalize_every_s: float = 0.0,
        realtime: bool = True,
    ) -> Self:
        """A plan that sends this 16-bit mono audio, at `RATE`, in packets of whole samples.

        Silence fills the last packet: each is paced and counted as a whole one.
        """
        size = packet_bytes(RATE, packet_ms)
        whole = pcm + bytes(-len(pcm) % size)
        exact_ms = 1000 * duration_s(whole[:size], RATE)
        return cls(tuple(packets(whole, RATE, packet_ms)), exact_ms, seconds, finalize_every_s, realtime)

    @property
    def count(self) -> int:
        """Packets of a stream."""
        return max(1, round(1000 * self.seconds / self.packet_ms))

    @property
    def finalize_every(self) -> int:
        """Packets between two finalize requests; 0 for none."""
        return round(1000 * self.finalize_every_s / self.packet_ms)


@dataclass(slots=True)
class Heard:
    """What one stream sent and heard; times in seconds.

    Attributes:
        outcome: "ok", or the code of the error.
        interims: (seconds into the stream, latency) of each interim.
        finals: from finalize or half-close to its final.
        late: how late each packet was sent; what the generator itself could not keep.
        bytes: of audio sent.
    """

    outcome: str = ""
    detail: str = ""
    started: float = 0.0
    sent: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    interims: list[tuple[float, float]] = field(default_factory=list)
    finals: list[float] = field(default_factory=list)
    text: str = ""
    bytes: int = 0

    def interim(self, audio_ms: float, packet_ms: float) -> None:
        """An interim came that takes `audio_ms` of audio into account."""
        now = time.monotonic()
        index = -int(-audio_ms // packet_ms) - 1
        if 0 <= index < len(self.sent):
            self.interims.append((now - self.started, now - self.sent[index]))


class Runner(Protocol):
    """Runs one stream and tells what was heard."""

    async def __call__(self, index: int, start: float, plan: Plan) -> Heard:
        """`start`: when to begin, on the clock of `time.monotonic`."""
        ...


async def _pace(heard: Heard, due: float, *, realtime: bool) -> None:
    """Waits until a packet is due and notes how late it goes."""
    if realtime:
        delay = due - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
    now = time.monotonic()
    if realtime:
        heard.late.append(now - due)
    heard.sent.append(now)


class GrpcRunner:
    """Streams over a few shared HTTP/2 channels."""

    def __init__(self, target: str, plan: Plan, *, channels: int = 4, access: Access = DIRECT) -> None:
        """`target` is HOST:PORT."""
        self._metadata = access.metadata()
        options = [("grpc.use_local_subchannel_pool", 1)]  # channels that are connections of their own
        self._channels = [access.channel(target, options) for _ in range(channels)]
        self._calls: list[grpc.aio.StreamStreamMultiCallable[bytes, pb.RecognizeResponse]] = [
            channel.stream_stream(METHOD, response_deserializer=pb.RecognizeResponse.FromString)
            for channel in self._channels
        ]
        self._packets = [pb.RecognizeRequest(audio=packet).SerializeToString() for packet in plan.packets]
        self._finalize = pb.RecognizeRequest(finalize=pb.Finalize()).SerializeToString()

    async def connect(self, timeout_s: float) -> None:
        """Waits until the service answers; TimeoutError if it does not."""
        async with asyncio.timeout(timeout_s):
            for channel in self._channels:
                await channel.channel_ready()

    async def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels:
            await channel.close()

    async def __call__(self, index: int, start: float, plan: Plan) -> Heard:
        """Runs one stream."""
        heard = Heard()
        await asyncio.sleep(max(0.0, start - time.monotonic()))
        config = pb.RecognitionConfig(sample_rate_hertz=RATE, stream_id=f"load-{index}")
        call = self._calls[index % len(self._calls)](metadata=self._metadata)
        asked: list[float] = []
        reader = asyncio.create_task(self._read(call, heard, asked, plan))
        try:
            await call.write(pb.RecognizeRequest(config=config).SerializeToString())
            # Admitted, or refused: a call that ends while it writes loses its reason.
            await call.initial_metadata()
            heard.started = time.monotonic()
            for number in range(plan.count):
                due = heard.started + (number + 1) * plan.packet_ms / 1000
                await _pace(heard, due, realtime=plan.realtime)
                place = number % len(plan.packets)
                heard.bytes += len(plan.packets[place])
                await call.write(self._packets[place])
                if plan.finalize_every and (number + 1) % plan.finalize_every == 0:
                    asked.append(time.monotonic())
                    await call.write(self._finalize)
            asked.append(time.monotonic())
            await call.done_writing()
            async with asyncio.timeout(FINAL_S):
                await reader
            code = await call.code()
            heard.outcome = "ok" if code is grpc.StatusCode.OK else code.name
        except TimeoutError:
            heard.outcome = "NO_FINAL"
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            heard.outcome = (await call.code()).name
            heard.detail = await call.details() or ""
        finally:
            reader.cancel()
            call.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        return heard

    @staticmethod
    async def _read(
        call: grpc.aio.StreamStreamCall[bytes, pb.RecognizeResponse],
        heard: Heard,
        asked: list[float],
        plan: Plan,
    ) -> None:
        answered = 0
        async for response in call:
            result = response.result
            if not result.is_final:
                heard.interim(response.audio_processed_ms, plan.packet_ms)
                continue
            heard.text += result.text + " "
            if result.final_reason != pb.FINAL_REASON_ENDPOINT and answered < len(asked):
                heard.finals.append(time.monotonic() - asked[answered])
                answered += 1


class WebSocketRunner:
    """Streams over connections of their own, in the bridge's protocol."""

    def __init__(self, url: str, *, access: Access = DIRECT) -> None:
        """`url` such as ws://localhost:8080."""
        self._url = url
        self._tls, self._headers = access.websocket_tls(url), access.headers()

    async def connect(self, timeout_s: float) -> None:
        """Opens a connection for a moment; NoConnection if that cannot be."""
        async with await connect(self._url, self._tls, self._headers, timeout_s=timeout_s):
            pass

    async def close(self) -> None:
        """Nothing is kept open between streams."""

    async def __call__(self, index: int, start: float, plan: Plan) -> Heard:
        """Runs one stream."""
        heard = Heard()
        await asyncio.sleep(max(0.0, start - time.monotonic()))
        sid = f"load-{index}"
        asked: list[float] = []
        try:
            async with await connect(self._url, self._tls, self._headers, max_queue=None) as socket:
                reader = asyncio.create_task(self._read(socket, heard, asked, plan))
                try:
                    await socket.send(json.dumps({"op": "init", "sid": sid, "sr": RATE, "details": True}))
                    heard.started = time.monotonic()
                    for number in range(plan.count):
                        due = heard.started + (number + 1) * plan.packet_ms / 1000
                        await _pace(heard, due, realtime=plan.realtime)
                        packet = plan.packets[number % len(plan.packets)]
                        heard.bytes += len(packet)
                        await socket.send(packet)
                        if plan.finalize_every and (number + 1) % plan.finalize_every == 0:
                            asked.append(time.monotonic())
                            await socket.send('{"op":"finalize"}')
                    asked.append(time.monotonic())
                    await socket.send(json.dumps({"op": "close", "sid": sid}))
                    async with asyncio.timeout(FINAL_S):
                        await reader
                finally:
                    reader.cancel()
                    await asyncio.gather(reader, return_exceptions=True)
            heard.outcome = heard.outcome or "ok"
        except TimeoutError:
            heard.outcome = "NO_FINAL"
        except websockets.ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            heard.outcome = heard.outcome or ("ok" if code == 1000 else f"close {code}")
            heard.detail = heard.detail or (closed.rcvd.reason if closed.rcvd else "connection lost")
        except NoConnection as failed:
            heard.outcome, heard.detail = failed.code, str(failed)
        return heard

    @staticmethod
    async def _read(
        socket: websockets.ClientConnection, heard: Heard, asked: list[float], plan: Plan
    ) -> None:
        answered = 0
        async for raw in socket:
            message: dict[str, Any] = json.loads(raw)
            match message.get("op"):
                case "interim":
                    if "audio_ms" in message:
                        heard.interim(float(message["audio_ms"]), plan.packet_ms)
                case "final":
                    heard.text += str(message.get("text", "")) + " "
                    if answered < len(asked):
                        heard.finals.append(time.monotonic() - asked[answered])
                        answered += 1
                case "error":
                    heard.outcome, heard.detail = str(message.get("code")), str(message.get("message"))


async def run_streams(
    runner: Runner, plan: Plan, streams: int, ramp_s: float, on_done: Callable[[Heard], None]
) -> list[Heard]:
    """Runs `streams` streams that start evenly over `ramp_s`."""

    async def one(index: int, start: float) -> Heard:
        heard = await runner(index, start, plan)
        on_done(heard)
        return heard

    begin = time.monotonic() + 0.05
    return await asyncio.gather(*(one(i, begin + ramp_s * i / streams) for i in range(streams)))


def outcomes(heard: list[Heard]) -> Counter[str]:
    """How many streams ended how."""
    return Counter(one.outcome for one in heard)

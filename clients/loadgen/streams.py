"""Runs the paced streams of the load generator, over gRPC or WebSocket.

Cheap on purpose, since the generator often shares its cores with what it measures: requests are serialized once and
sent as bytes, every stream sends the same packets, and times go into plain lists.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import grpc.aio
import websockets
from asr.v1 import asr_pb2 as pb

from clients.access import Access
from clients.handshake import NoConnection, connect
from clients.loadgen.plan import RATE, Heard, Plan
from clients.pacing import Pacer

METHOD = "/asr.v1.SpeechService/Recognize"
DIRECT = Access()
"""No TLS and no key."""
CHANNELS = 4
"""Connections to the service that streams over gRPC share, unless said otherwise."""
FINAL_S = 60.0
"""Longest wait for the last final after the end of the audio."""
ASKED_FOR = (pb.FINAL_REASON_FINALIZE, pb.FINAL_REASON_END_OF_STREAM)
"""Reasons of the finals that answer a request; the others come by themselves."""
FINALIZE = '{"op":"finalize"}'

Message = TypeVar("Message", bound=bytes | str)


class Runner(Protocol):
    """Runs one stream and tells what was heard."""

    async def __call__(self, index: int, start: float, plan: Plan) -> Heard:
        """`start`: when to begin, on the clock of `time.monotonic`."""
        ...


async def send_audio(
    plan: Plan,
    heard: Heard,
    write: Callable[[Message], Awaitable[object]],
    packets: Sequence[Message],
    finalize: Message,
) -> None:
    """Sends a stream's audio and its finalize requests at the pace of the plan, and notes when.

    Args:
        plan: what is sent.
        heard: takes the times; has its start already.
        write: sends one message.
        packets: the plan's packets as `write` takes them.
        finalize: the request for a final as `write` takes it.
    """
    pacer, finalize_every = Pacer(heard.started), plan.finalize_every
    for number in range(plan.count):
        if plan.realtime:
            await pacer.wait(plan.packet_ms / 1000)
        now = time.monotonic()
        if plan.realtime:
            heard.late.append(now - pacer.due)
        heard.sent.append(now)
        place = number % len(packets)
        heard.bytes += len(plan.packets[place])
        await write(packets[place])
        if finalize_every and (number + 1) % finalize_every == 0:
            heard.asked.append(time.monotonic())
            await write(finalize)
    # The end of the audio, which follows at once, asks for the last final.
    heard.asked.append(time.monotonic())


class GrpcRunner:
    """Runs streams over a few shared HTTP/2 channels."""

    def __init__(
        self,
        target: str,
        plan: Plan,
        *,
        channels: int = CHANNELS,
        access: Access = DIRECT,
        config: pb.RecognitionConfig | None = None,
    ) -> None:
        """`target` is HOST:PORT; `config` what every stream asks for besides its rate and its name."""
        self._config = pb.RecognitionConfig(sample_rate_hertz=RATE)
        self._config.MergeFrom(config or pb.RecognitionConfig())
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
        config = pb.RecognitionConfig(stream_id=f"load-{index}")
        config.MergeFrom(self._config)
        call = self._calls[index % len(self._calls)](metadata=self._metadata)
        reader = asyncio.create_task(self._read(call, heard, plan))
        try:
            await call.write(pb.RecognizeRequest(config=config).SerializeToString())
            # Admitted, or refused: a call that ends while it writes loses its reason.
            await call.initial_metadata()
            heard.started = time.monotonic()
            await send_audio(plan, heard, call.write, self._packets, self._finalize)
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
        call: grpc.aio.StreamStreamCall[bytes, pb.RecognizeResponse], heard: Heard, plan: Plan
    ) -> None:
        async for response in call:
            result = response.result
            if result.is_final:
                heard.final(result.text, asked_for=result.final_reason in ASKED_FOR)
            else:
                heard.interim(response.audio_processed_ms, plan.packet_ms)


class WebSocketRunner:
    """Runs streams over connections of their own, in the bridge's protocol."""

    def __init__(
        self,
        url: str,
        *,
        access: Access = DIRECT,
        init: Mapping[str, object] | None = None,
    ) -> None:
        """`url` such as ws://localhost:8080; `init`: further fields of that message."""
        self._url = url
        self._init = {"op": "init", "sr": RATE, "details": True, **(init or {})}
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
        try:
            async with await connect(self._url, self._tls, self._headers, max_queue=None) as socket:
                reader = asyncio.create_task(self._read(socket, heard, plan))
                try:
                    await socket.send(json.dumps(self._init | {"sid": sid}))
                    heard.started = time.monotonic()
                    await send_audio(plan, heard, socket.send, plan.packets, FINALIZE)
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
    async def _read(socket: websockets.ClientConnection, heard: Heard, plan: Plan) -> None:
        async for raw in socket:
            message: dict[str, Any] = json.loads(raw)
            match message.get("op"):
                case "interim":
                    if "audio_ms" in message:
                        heard.interim(float(message["audio_ms"]), plan.packet_ms)
                case "final":
                    heard.final(str(message.get("text", "")))
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

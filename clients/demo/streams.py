"""Streams a clip live, over gRPC or WebSocket, and notes when things were heard."""

from __future__ import annotations

import json
import time
from asyncio import TaskGroup
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import websockets
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from clients.demo.clips import RATE, Clip
from clients.demo.servers import DemoError
from clients.grpc_client_wav import WavStream, recognize
from clients.pacing import Pacer, completing_packet, duration_s, packets

PACKET_MS = 20.0

OnText = Callable[[str], None]


@dataclass
class Heard:
    """What one stream heard.

    Attributes:
        text: the finals, joined.
        first_word_ms: from the first packet sent to the first interim with text; None if there was none.
        interims_ms: of each interim, from the packet that completed its audio to its arrival.
        final_ms: from half-close (or `close`) to the last final.
    """

    text: str = ""
    first_word_ms: float | None = None
    interims_ms: list[float] = field(default_factory=list)
    final_ms: float = 0.0


async def over_grpc(target: str, clip: Clip, on_text: OnText, language: str = "") -> Heard:
    """Streams the clip in real time over gRPC; `on_text` gets the text so far. `language` "": the service's default.

    Raises:
        DemoError: the service failed the stream, or ended it without a final.
    """
    heard = Heard()
    config = pb.RecognitionConfig(sample_rate_hertz=RATE, stream_id=clip.name, language_code=language)
    stream = WavStream(clip.pcm, config, packet_ms=PACKET_MS, realtime=True)
    finals: list[str] = []
    started = time.monotonic()

    def on_response(response: pb.RecognizeResponse, latency_ms: float) -> None:
        if response.result.is_final:
            finals.append(response.result.text)
            heard.final_ms = latency_ms
            return
        heard.interims_ms.append(latency_ms)
        if response.result.text and heard.first_word_ms is None:
            heard.first_word_ms = 1000 * (time.monotonic() - started)
        on_text(" ".join([*finals, response.result.text]))

    async with grpc.aio.insecure_channel(target) as channel:
        try:
            await recognize(asr_pb2_grpc.SpeechServiceStub(channel), stream, on_response)
        except grpc.aio.AioRpcError as error:
            raise DemoError(f"gRPC, {clip.name}: {error.code().name}: {error.details()}") from None
    if not finals:
        raise DemoError(f"gRPC, {clip.name}: the stream ended without a final")
    heard.text = " ".join(text for text in finals if text)
    return heard


async def over_websocket(url: str, clip: Clip, on_text: OnText, language: str = "") -> Heard:
    """Streams the clip in real time over WebSocket, as `over_grpc` does."""
    heard = Heard()
    finals: list[str] = []
    sent: list[float] = []
    closed_at = started = time.monotonic()

    async def send(socket: websockets.ClientConnection) -> None:
        nonlocal closed_at
        pacer = Pacer()
        for packet in packets(clip.pcm, RATE, PACKET_MS):
            await pacer.wait(duration_s(packet, RATE))
            sent.append(time.monotonic())
            await socket.send(packet)
        closed_at = time.monotonic()
        await socket.send(json.dumps({"op": "close", "sid": clip.name}))

    async def listen(socket: websockets.ClientConnection) -> None:
        async for raw in socket:
            now = time.monotonic()
            message: dict[str, Any] = json.loads(raw)
            match message["op"]:
                case "interim":
                    index = completing_packet(message["audio_ms"], PACKET_MS)
                    heard.interims_ms.append(1000 * (now - sent[min(max(index, 0), len(sent) - 1)]))
                    if message["text"] and heard.first_word_ms is None:
                        heard.first_word_ms = 1000 * (now - started)
                    on_text(" ".join([*finals, message["text"]]))
                case "final":
                    finals.append(message["text"])
                    heard.final_ms = 1000 * (now - closed_at)
                case "error":
                    raise DemoError(f"WebSocket, {clip.name}: {message['code']}: {message['message']}")

    try:
        async with websockets.connect(url, compression=None) as socket:
            # `details` adds the audio position that the latency is measured from.
            init = {"op": "init", "sid": clip.name, "sr": RATE, "details": True, "language": language}
            await socket.send(json.dumps(init))
            started = time.monotonic()
            async with TaskGroup() as tasks:
                tasks.create_task(listen(socket))
                tasks.create_task(send(socket))
    except* DemoError as errors:
        raise errors.exceptions[0] from None
    except* (websockets.WebSocketException, OSError) as errors:
        raise DemoError(f"WebSocket, {clip.name}: {errors.exceptions[0]}") from None
    if not finals:
        raise DemoError(f"WebSocket, {clip.name}: the connection ended without a final")
    heard.text = " ".join(text for text in finals if text)
    return heard

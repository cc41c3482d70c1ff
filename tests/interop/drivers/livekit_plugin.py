"""Drives LiveKit's NVIDIA plugin: `STT.stream()`, frames in and speech events out."""

from __future__ import annotations

import asyncio
import time

from common import PACKET_MS, RATE, Heard, Order, answer, order, packets, samples
from livekit import rtc
from livekit.agents import stt as agents_stt
from livekit.plugins import nvidia

EVENT = agents_stt.SpeechEventType


async def live(plugin: nvidia.STT, name: str, path: str) -> Heard:
    """Frames at the pace of a speaker, then the end of the input."""
    heard = Heard(name)
    stream = plugin.stream()
    ended = 0.0

    async def speak() -> None:
        nonlocal ended
        began = time.monotonic()
        for at, piece in enumerate(packets(samples(path)), 1):
            await asyncio.sleep(max(0.0, began + at * PACKET_MS / 1000 - time.monotonic()))
            stream.push_frame(rtc.AudioFrame(piece, RATE, 1, len(piece) // 2))
        ended = time.monotonic()
        stream.end_input()

    speaking = asyncio.create_task(speak())
    async for event in stream:
        if event.type is EVENT.INTERIM_TRANSCRIPT:
            heard.interims.append(event.alternatives[0].text)
        elif event.type is EVENT.FINAL_TRANSCRIPT:
            best = event.alternatives[0]
            heard.waited_s = time.monotonic() - ended if ended else None
            heard.finals.append(best.text)
            heard.words += [
                (str(word), round(word.start_time), round(word.end_time)) for word in best.words or []
            ]
    await speaking
    await stream.aclose()
    return heard


async def main(given: Order) -> None:
    """All files at the same time."""
    plugin = nvidia.STT(server=given.target, use_ssl=False, sample_rate=RATE)
    heard = await asyncio.gather(*(live(plugin, name, path) for name, path in given.files.items()))
    answer(list(heard), "livekit-plugins-nvidia", "livekit-agents", "nvidia-riva-client", "protobuf")


if __name__ == "__main__":
    asyncio.run(main(order()))

"""Drives LiveKit's plugins for Deepgram and OpenAI against the bridge: streams of frames, and whole buffers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from common import PACKET_MS, Heard, Order, answer, order, packets, samples, speech_end
from livekit import rtc
from livekit.agents import stt as agents_stt
from livekit.agents import utils
from livekit.plugins import deepgram, openai

EVENT = agents_stt.SpeechEventType
LONGEST_WAIT_S = 60.0


def note(heard: Heard, event: Any) -> None:
    """Keeps what a speech event says."""
    if event.type is EVENT.INTERIM_TRANSCRIPT:
        heard.interims.append(event.alternatives[0].text)
    elif event.type is EVENT.FINAL_TRANSCRIPT:
        best = event.alternatives[0]
        heard.finals.append(best.text)
        heard.words += [
            (str(word), round(word.start_time * 1000), round(word.end_time * 1000))
            for word in best.words or []
        ]


async def live(plugin: Any, given: Order, name: str, *, ends: bool) -> Heard:
    """Frames at the pace of a speaker; the wait is from the end of the speech to the last final."""
    heard = Heard(name)
    stream = plugin.stream()
    pcm = samples(given.files[name], given.rate)
    pieces = packets(pcm, given.rate)
    last = speech_end(pcm, given.rate)
    spoken = 0.0

    async def speak() -> None:
        nonlocal spoken
        began = time.monotonic()
        for at, piece in enumerate(pieces):
            await asyncio.sleep(max(0.0, began + (at + 1) * PACKET_MS / 1000 - time.monotonic()))
            stream.push_frame(rtc.AudioFrame(piece, given.rate, 1, len(piece) // 2))
            if at == last:
                spoken = time.monotonic()
        if ends:
            stream.end_input()

    speaking = asyncio.create_task(speak())
    with contextlib.suppress(TimeoutError):  # the test shows what came instead
        async with asyncio.timeout(LONGEST_WAIT_S + len(pieces) * PACKET_MS / 1000):
            async for event in stream:
                note(heard, event)
                if event.type is EVENT.FINAL_TRANSCRIPT and heard.text == given.expected[name]:
                    # A last word may be final before the sound of it is over.
                    heard.waited_s = max(0.0, time.monotonic() - spoken) if spoken else 0.0
                    if not ends:
                        break
    await speaking
    await stream.aclose()
    return heard


async def whole(plugin: Any, given: Order, name: str) -> Heard:
    """A buffer in one request."""
    heard = Heard(name)
    pcm = samples(given.files[name], given.rate)
    frame = rtc.AudioFrame(pcm, given.rate, 1, len(pcm) // 2)
    note(heard, await plugin.recognize([frame]))
    return heard


async def main(given: Order) -> None:
    """All files at the same time."""
    async with utils.http_context.open():
        if given.mode.startswith("deepgram"):
            plugin: Any = deepgram.STT(
                api_key="none", base_url=f"http://{given.target}/v1/listen", sample_rate=given.rate
            )
        else:
            plugin = openai.STT(
                api_key="none",
                base_url=f"http://{given.target}/v1",
                model="gpt-4o-mini-transcribe" if given.mode == "openai-live" else "whisper-1",
                use_realtime=given.mode == "openai-live",
            )
        if given.mode.endswith("file"):
            drives = [whole(plugin, given, name) for name in given.files]
        else:
            drives = [live(plugin, given, name, ends=given.mode == "deepgram-live") for name in given.files]
        heard = await asyncio.gather(*drives)
    which = given.mode.partition("-")[0]
    answer(list(heard), f"livekit-plugins-{which}", "livekit-agents")


if __name__ == "__main__":
    asyncio.run(main(order()))

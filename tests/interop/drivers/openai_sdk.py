"""Drives OpenAI's SDK: realtime transcription, with turns that the client commits or that the service finds; files."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path
from typing import Any

from common import PACKET_MS, Heard, Order, answer, order, packets, samples, speech_end
from openai import AsyncOpenAI

TRANSCRIPTION = "conversation.item.input_audio_transcription"
LONGEST_WAIT_S = 60.0


async def realtime(client: AsyncOpenAI, given: Order, name: str, turns: dict[str, Any] | None) -> Heard:
    """Audio at the pace of a speaker; the client commits it, or waits for the service to find the end."""
    heard = Heard(name)
    deltas: dict[str, str] = {}
    pcm = samples(given.files[name], given.rate)
    pieces = packets(pcm, given.rate)
    last = speech_end(pcm, given.rate) if turns else len(pieces) - 1
    spoken = 0.0
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        heard_input = {
            "format": {"type": "audio/pcm", "rate": given.rate},
            "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en"},
            "turn_detection": turns,
        }
        await connection.session.update(session={"type": "transcription", "audio": {"input": heard_input}})

        async def speak() -> None:
            nonlocal spoken
            began = time.monotonic()
            for at, piece in enumerate(pieces):
                await asyncio.sleep(max(0.0, began + (at + 1) * PACKET_MS / 1000 - time.monotonic()))
                await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
                if at == last:
                    spoken = time.monotonic()
            if turns is None:
                spoken = time.monotonic()
                await connection.input_audio_buffer.commit()

        speaking = asyncio.create_task(speak())
        async with asyncio.timeout(LONGEST_WAIT_S + len(pieces) * PACKET_MS / 1000):
            async for event in connection:
                assert event.type != "error", event
                if event.type == f"{TRANSCRIPTION}.delta":
                    deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
                    heard.interims.append(deltas[event.item_id])
                elif event.type == f"{TRANSCRIPTION}.completed":
                    assert deltas.get(event.item_id, "") == event.transcript, event
                    heard.finals.append(event.transcript)
                    if heard.text == given.expected[name]:
                        heard.waited_s = time.monotonic() - spoken
                        break
        await speaking
    return heard


async def file(client: AsyncOpenAI, given: Order, name: str) -> Heard:
    """The whole file in one request: with words, and once more as events."""
    heard = Heard(name)
    path = Path(given.files[name])
    verbose = await client.audio.transcriptions.create(
        file=path,
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    heard.finals.append(verbose.text)
    heard.words += [(word.word, round(word.start * 1000), round(word.end * 1000)) for word in verbose.words]
    assert " ".join(segment.text for segment in verbose.segments) == verbose.text
    async for event in await client.audio.transcriptions.create(
        file=path, model="gpt-4o-transcribe", language="en", stream=True
    ):
        if event.type == "transcript.text.delta":
            heard.interims.append(event.delta)
        else:
            assert (event.type, event.text) == ("transcript.text.done", verbose.text), event
    assert "".join(heard.interims) == verbose.text
    captions = await client.audio.transcriptions.create(file=path, model="whisper-1", response_format="srt")
    assert captions.startswith("1\n00:00:0"), captions
    return heard


async def main(given: Order) -> None:
    """All files at the same time."""
    async with AsyncOpenAI(api_key="none", base_url=f"http://{given.target}/v1") as client:
        if given.mode == "file":
            heard = await asyncio.gather(*(file(client, given, name) for name in given.files))
            answer(list(heard), "openai")
        turns = {"type": "server_vad", "silence_duration_ms": 300} if given.mode == "turns" else None
        heard = await asyncio.gather(*(realtime(client, given, name, turns) for name in given.files))
    answer(list(heard), "openai", "websockets")


if __name__ == "__main__":
    asyncio.run(main(order()))

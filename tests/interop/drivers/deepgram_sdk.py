"""Drives Deepgram's SDK: the live client, which listens in a thread, the asynchronous one, and that for files."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import PACKET_MS, RATE, Heard, Order, answer, order, paced, packets, samples
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment

ASKED: dict[str, Any] = {
    "model": "nova-3",
    "language": "en-US",
    "encoding": "linear16",
    "sample_rate": RATE,
    "interim_results": True,
    "utterance_end_ms": 1000,
    "vad_events": True,
    "punctuate": True,
    "keyterm": ["antiberta"],
}


class Listener:
    """Notes what one connection is told."""

    def __init__(self, name: str) -> None:
        self.heard = Heard(name)
        self.kinds: set[str] = set()
        self.at = 0.0

    def take(self, message: Any) -> None:
        """A message of the SDK's types."""
        self.kinds.add(message.type)
        if message.type != "Results":
            assert message.type in ("SpeechStarted", "UtteranceEnd", "Metadata"), message
            return
        best = message.channel.alternatives[0]
        if not message.is_final:
            self.heard.interims.append(best.transcript)
            return
        self.at = time.monotonic()
        if best.transcript:
            self.heard.finals.append(best.transcript)
        self.heard.words += [
            (word.punctuated_word, round(word.start * 1000), round(word.end * 1000)) for word in best.words
        ]

    def done(self, ended: float) -> Heard:
        """What was heard, once the connection is closed."""
        assert {"Results", "SpeechStarted", "Metadata"} <= self.kinds, self.kinds
        self.heard.waited_s = self.at - ended
        return self.heard


def live(client: DeepgramClient, name: str, path: str) -> Heard:
    """Audio at the pace of a speaker, then the end of the stream; events in a thread."""
    listener = Listener(name)
    with client.listen.v1.connect(**ASKED) as connection:
        connection.on(EventType.MESSAGE, listener.take)
        listening = threading.Thread(target=connection.start_listening)
        listening.start()
        for piece in paced(packets(samples(path))):
            connection.send_media(piece)
        connection.send_keep_alive()
        ended = time.monotonic()
        connection.send_close_stream()
        listening.join()
    return listener.done(ended)


def file(client: DeepgramClient, name: str, path: str) -> Heard:
    """The whole file in one request."""
    heard = Heard(name)
    response = client.listen.v1.media.transcribe_file(
        request=Path(path).read_bytes(), model="nova-3", language="en-US", punctuate=True, utterances=True
    )
    (best,) = response.results.channels[0].alternatives
    assert " ".join(one.transcript for one in response.results.utterances) == best.transcript
    heard.finals.append(best.transcript)
    heard.words += [
        (word.punctuated_word, round(word.start * 1000), round(word.end * 1000)) for word in best.words
    ]
    return heard


async def live_async(client: AsyncDeepgramClient, name: str, path: str) -> Heard:
    """The same on an event loop, with a request for a final before the end."""
    listener = Listener(name)
    async with client.listen.v1.connect(**ASKED) as connection:
        connection.on(EventType.MESSAGE, listener.take)
        listening = asyncio.create_task(connection.start_listening())
        began = time.monotonic()
        for at, piece in enumerate(packets(samples(path)), 1):
            await asyncio.sleep(max(0.0, began + at * PACKET_MS / 1000 - time.monotonic()))
            await connection.send_media(piece)
        ended = time.monotonic()
        await connection.send_close_stream()
        await listening
    return listener.done(ended)


async def gather(client: AsyncDeepgramClient, given: Order) -> list[Heard]:
    """All files at the same time."""
    return list(await asyncio.gather(*(live_async(client, *item) for item in given.files.items())))


def main(given: Order) -> None:
    """All files at the same time."""
    environment = DeepgramClientEnvironment(
        base=f"http://{given.target}",
        production=f"ws://{given.target}",
        agent=f"ws://{given.target}",
        agent_rest=f"http://{given.target}",
    )
    if given.mode == "live-async":
        asynchronous = AsyncDeepgramClient(api_key="none", environment=environment)
        heard = asyncio.run(gather(asynchronous, given))
    else:
        client = DeepgramClient(api_key="none", environment=environment)
        drive = {"live": live, "file": file}[given.mode]
        with ThreadPoolExecutor(len(given.files)) as pool:
            heard = list(pool.map(lambda item: drive(client, *item), given.files.items()))
    answer(heard, "deepgram-sdk", "websockets")


if __name__ == "__main__":
    main(order())

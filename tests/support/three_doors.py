"""A whole stream in a language over each of the three protocols, and what came of it in the same form."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from asr.v1 import asr_pb2_grpc

from tests.support import riva, rpc
from tests.support.audio import cut
from tests.support.bridge import CLOSE, Bridge, talk
from tests.support.process import AsrService

PACKET = 640


@dataclass(frozen=True)
class Said:
    """A final with text: the text, and the language that it is said to be in ("" if none)."""

    text: str
    language: str


Door = Callable[[bytes, str], Awaitable[list[Said]]]
"""Sends a stream's audio in a language and returns its finals that have text."""


@dataclass(frozen=True)
class Doors:
    """The protocols of a service and its bridge, and what tests of one of them need."""

    service: AsrService
    bridge: Bridge
    stub: rpc.Stub
    riva: Any

    @property
    def all(self) -> dict[str, Door]:
        """The protocols by name."""
        return {"asr.v1": self.over_grpc, "Riva": self.over_riva, "WebSocket": self.over_websocket}

    async def over_grpc(self, pcm: bytes, language: str) -> list[Said]:
        """Over `asr.v1`."""
        opening = rpc.config(language_code=language)
        responses = await rpc.talk(self.stub, [opening, *map(rpc.audio, cut(pcm, PACKET))])
        return [Said(final.text, final.language_code) for final in rpc.finals(responses) if final.text]

    async def over_riva(self, pcm: bytes, language: str) -> list[Said]:
        """Over Riva's `StreamingRecognize`, with punctuation and without endpoints, as is the default in the others."""
        opening = riva.opening(
            language_code=language,
            enable_automatic_punctuation=True,
            endpointing_config=riva.pause(10_000),
        )
        results = await riva.talk(self.riva, [opening, *riva.packets(pcm, PACKET)])
        return [said(result) for result in riva.finals(results)]

    async def over_websocket(self, pcm: bytes, language: str) -> list[Said]:
        """Over the bridge's protocol, with the model's own ends of utterances as in the others."""
        init = {"op": "init", "sid": "call-17", "language": language, "details": True, "end_tokens": True}
        heard = await talk(self.bridge, [json.dumps(init), *cut(pcm, PACKET), CLOSE])
        assert heard.code == 1000, heard.messages
        return [
            Said(final["text"], final.get("language", "")) for final in heard.of("final") if final["text"]
        ]


def said(result: Any) -> Said:
    """What a result of Riva's says, streamed or not."""
    best = result.alternatives[0]
    return Said(best.transcript, " ".join(best.language_code))


@contextmanager
def serving(**settings: Any) -> Iterator[tuple[AsrService, Bridge]]:
    """A service with these settings, and a bridge to it."""
    with AsrService(ASR_MAX_LOAD=0, **settings) as service, Bridge(service.target) as bridge:
        yield service, bridge


@asynccontextmanager
async def connected(service: AsrService, bridge: Bridge) -> AsyncIterator[Doors]:
    """Clients of a service and its bridge."""
    async with grpc.aio.insecure_channel(service.target) as channel:
        yield Doors(service, bridge, asr_pb2_grpc.SpeechServiceStub(channel), riva.stub_on(channel))

"""A conversation in three languages with a model of the class and shape of Nemotron 3.5, random weights, in small.

`make test ARGS="-s tests/e2e/test_conversation.py"` prints it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from asr.v1 import asr_pb2 as pb

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from testbed.babble import babble
from tests.support import riva, rpc
from tests.support.bridge import Bridge, talk
from tests.support.process import AsrService
from tests.support.three_doors import Doors, Said, connected, serving

pytestmark = pytest.mark.slow

LANGUAGES = ("en-US", "de-DE", "ja-JP")
TURNS = 2
"""Of each speaker: streams that follow each other."""
SHOWN = 70
"""Characters of a text that are printed, from its end: languages differ more and more."""


def speech(seconds: float, seed: int) -> bytes:
    """What a speaker says, 16-bit mono."""
    return (babble(seconds, seed) * 32767).clip(-32768, 32767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def servers(compiled: None, model_file: Callable[[str], Path]) -> Iterator[tuple[AsrService, Bridge]]:
    """A service of the model, and its bridge."""
    with serving(ASR_MODEL=model_file("nemotron-3.5"), ASR_THREADS=1, ASR_MAX_STREAMS=16) as both:
        yield both


@pytest.fixture
async def doors(servers: tuple[AsrService, Bridge]) -> AsyncIterator[Doors]:
    """Clients of `servers`."""
    async with connected(*servers) as clients:
        yield clients


async def test_a_conversation_in_three_languages(doors: Doors) -> None:
    """All speakers at once over every protocol: a language is the same through each, and no other's."""
    for turn in range(TURNS):
        pcm = speech(4.0, seed=turn)
        streams = [(code, name, door) for code in (*LANGUAGES, "auto") for name, door in doors.all.items()]
        heard = await asyncio.gather(*(door(pcm, code) for code, _, door in streams))
        finals: dict[str, list[Said]] = {}
        for (code, name, _), said in zip(streams, heard, strict=True):
            print(f"{name:<10}{code:<7}", *(f"{final.text[-SHOWN:]} [{final.language}]" for final in said))
            assert said and said == finals.setdefault(code, said), (code, name)
            assert not any("<" in final.text for final in said)
        texts = {code: " ".join(final.text for final in said) for code, said in finals.items()}
        assert len(set(texts.values())) == len(texts), texts
        assert all(len(text) > 20 for text in texts.values())


async def test_alone_a_stream_says_the_same(doors: Doors) -> None:
    """Neighbours of other languages in its batches change nothing, nor what its slot held before."""
    pcm = speech(3.0, seed=9)
    alone = {code: await doors.over_grpc(pcm, code) for code in LANGUAGES}
    together = await asyncio.gather(*(doors.over_grpc(pcm, code) for code in LANGUAGES * 4))
    assert together == [alone[code] for code in LANGUAGES] * 4


async def test_after_a_finalize_the_language_is_still_the_streams(doors: Doors) -> None:
    pcm = speech(2.0, seed=4)
    for code in LANGUAGES:
        opening = rpc.config(language_code=code)
        both = rpc.finals(
            await rpc.talk(
                doors.stub, [opening, rpc.audio(pcm), rpc.finalize(), rpc.audio(pcm), rpc.finalize()]
            )
        )
        first, second, _ = [final.text for final in both]
        assert first == second != ""
        print(f"{code:<7}{first[-SHOWN:]}")


async def test_a_language_that_the_model_does_not_have(doors: Doors) -> None:
    told = await doors.stub.GetServiceInfo(pb.GetServiceInfoRequest())
    assert told.takes_language and told.default_language_code == "auto"
    assert set(LANGUAGES) <= set(told.languages)
    opening = riva.opening(language_code="tlh")
    errors = [
        await rpc.failure(doors.stub, [rpc.config(language_code="tlh")]),
        await rpc.told(lambda: riva.talk(doors.riva, [opening, riva.audio(bytes(640))])),
    ]
    heard = await talk(doors.bridge, [json.dumps({"op": "init", "sid": "a", "language": "tlh"})])
    for error in errors:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    for sentence in (*(error.details() or "" for error in errors), heard.error["message"]):
        print(sentence)
        assert all(code in sentence for code in LANGUAGES), sentence

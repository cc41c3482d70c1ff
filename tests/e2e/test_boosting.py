"""A boosted word that the demo model misses is heard over every interface, and nobody else hears anything of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import grpc.aio
import pytest
import soundfile
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from tests.support.bridge import CLOSE, Bridge, talk
from tests.support.process import PATIENCE_S, ROOT, AsrService
from tests.support.rpc import Stub, audio, bad_fields, config, failure, finalize, finals, transcribe
from tests.support.rpc import talk as talk_grpc

EVAL = ROOT / "demo_model" / "eval"
GROUP = "noise-unseen"
BOOST = 2.0
"""What Riva's largest boosts count as."""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A recording with a word that the model writes only if it is boosted."""

    pcm: bytes
    word: str
    plain: str
    boosted: str


def phrases(*words: str, boost: float = BOOST) -> list[pb.PhraseBoost]:
    return [pb.PhraseBoost(phrases=words, boost=boost)]


@pytest.fixture(scope="module")
def service(compiled: None) -> Iterator[AsrService]:
    with AsrService(
        wait=False, ASR_MODEL="demo", ASR_THREADS=1, ASR_MAX_STREAMS=8, ASR_MAX_LOAD=0
    ) as process:
        process.wait_ready(PATIENCE_S)
        yield process


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Iterator[Bridge]:
    with Bridge(service.target) as process:
        yield process


@pytest.fixture
async def stub(service: AsrService) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(service.target) as channel:
        yield asr_pb2_grpc.SpeechServiceStub(channel)


@pytest.fixture(scope="module")
def case(service: AsrService) -> Case:
    """The first word of a noisy recording that is missed without its boost and heard with it."""
    return asyncio.run(_search(service.target))


async def _search(target: str) -> Case:
    lines = [json.loads(line) for line in (EVAL / "manifest.jsonl").read_text().splitlines()]
    async with grpc.aio.insecure_channel(target) as channel:
        stub = asr_pb2_grpc.SpeechServiceStub(channel)
        for line in lines:
            if line["group"] != GROUP:
                continue
            samples, _ = soundfile.read(EVAL / line["file"], dtype="int16")
            pcm = samples.astype("<i2").tobytes()
            plain = await transcribe(stub, pcm, 1 << 20)
            for word in sorted(set(line["text"].split()) - set(plain.split())):
                heard = await transcribe(stub, pcm, 1 << 20, phrase_boosts=phrases(word))
                if word in heard.split():
                    return Case(pcm, word, plain, heard)
    raise AssertionError("no word that the model misses is heard with a boost")


async def test_grpc(stub: Stub, case: Case) -> None:
    """In upper case, beside phrases that are not spoken, in packets of any size, next to streams without phrases."""
    heard = await asyncio.gather(
        transcribe(stub, case.pcm),
        transcribe(stub, case.pcm, phrase_boosts=phrases(case.word.upper())),
        transcribe(stub, case.pcm, 1237, phrase_boosts=[*phrases("zoo", boost=0), *phrases(case.word)]),
        transcribe(stub, case.pcm, 1 << 20, phrase_boosts=phrases(case.word)),
        transcribe(stub, case.pcm, 1 << 20),
    )
    assert heard == [case.plain, case.boosted, case.boosted, case.boosted, case.plain]
    # After a finalize the stream still listens.
    opening = config(word_times=True, phrase_boosts=phrases(case.word))
    both = finals(await talk_grpc(stub, [opening, audio(case.pcm), finalize(), audio(case.pcm)]))
    assert [final.text for final in both] == [case.boosted] * 2
    # The slots are clean afterwards, and no boost is none.
    unboosted = phrases(case.word, boost=0)
    again = await asyncio.gather(*(transcribe(stub, case.pcm, phrase_boosts=unboosted) for _ in range(8)))
    assert again == [case.plain] * 8


async def test_websocket(bridge: Bridge, case: Case) -> None:
    init = {"op": "init", "sid": "call-17", "phrases": [case.word.title()], "boost": BOOST}
    heard = await talk(bridge, [json.dumps(init), case.pcm, CLOSE])
    assert (heard.code, heard.final["text"]) == (1000, case.boosted)


async def test_riva(service: AsrService, case: Case) -> None:
    """Boosts of other scales are brought into range; what cannot be used is left out."""
    pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")
    from tests.support import riva

    contexts = [
        riva.rasr.SpeechContext(phrases=["", "\u65e5\u672c", "a" * 1000, case.word.title()], boost=1e9),
        riva.rasr.SpeechContext(phrases=["zoo"] * 2000, boost=-4),
        riva.rasr.SpeechContext(phrases=["zoo"] * 2000, boost=float("nan")),
    ]
    opening = riva.opening(speech_contexts=contexts, enable_automatic_punctuation=True)
    async with grpc.aio.insecure_channel(service.target) as channel:
        results = await riva.talk(riva.stub_on(channel), [opening, *riva.packets(case.pcm)])
    assert riva.text(results) == case.boosted


async def test_what_the_model_cannot_write_is_named(stub: Stub, bridge: Bridge) -> None:
    error = await failure(stub, [config(phrase_boosts=phrases("platform", "gate 7"))])
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bad_fields(error) == ["config.phrase_boosts[0].phrases[1]"]
    assert "'7'" in (error.details() or "")
    heard = await talk(bridge, ['{"op":"init","sid":"a","phrases":["gate 7"]}'])
    assert (heard.code, heard.error["code"], heard.error["field"]) == (1008, "invalid_argument", "phrases[0]")
    assert "'7'" in heard.error["message"]

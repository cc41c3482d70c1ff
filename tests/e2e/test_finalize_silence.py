"""The silence that follows audio whose final is asked for, as the service adds it by default, over every door."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from tests.support import riva
from tests.support.audio import silence, speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, talk
from tests.support.process import AsrService
from tests.support.rpc import audio, config, finalize, finals
from tests.support.rpc import talk as talk_grpc
from tests.support.three_doors import connected, serving

PCM = speechlike(1.03, seed=12)
ADDED_S = 0.08


@pytest.fixture(scope="module")
def added() -> Iterator[tuple[AsrService, Bridge]]:
    """A service that adds what it adds unless told otherwise, and a bridge to it."""
    with serving(ASR_FINALIZE_SILENCE_MS="", ASR_MAX_STREAMS=4) as both:
        yield both


async def test_every_end_hears_it_and_no_clock_shows_it(
    added: tuple[AsrService, Bridge], service: AsrService
) -> None:
    """A finalize, a half-close, Riva's calls and the bridge's `close`; a service told to add none adds none."""
    async with connected(service, added[1]) as reference:
        (bare,) = finals(await talk_grpc(reference.stub, [config(), audio(PCM)]))
        (followed,) = finals(await talk_grpc(reference.stub, [config(), audio(PCM + silence(ADDED_S))]))
        assert bare.text != followed.text, "the null model hears the difference"
    async with connected(*added) as doors:
        responses = await talk_grpc(doors.stub, [config(), audio(PCM), finalize("one"), audio(PCM)])
        assert [final.text for final in finals(responses)] == [followed.text] * 2
        ends = [response.audio_processed_ms for response in responses if response.result.is_final]
        assert ends == [1030, 2060]
        (result,) = riva.finals(await riva.talk(doors.riva, [riva.opening(), riva.audio(PCM)]))
        assert result.alternatives[0].transcript == followed.text
        assert result.audio_processed == pytest.approx(1.03)
        upload = riva.rasr.RecognizeRequest(config=riva.recognition(), audio=PCM)
        (whole,) = (await doors.riva.Recognize(upload)).results
        assert whole.alternatives[0].transcript == followed.text
        heard = await talk(doors.bridge, [json.dumps({**json.loads(INIT), "details": True}), PCM, CLOSE])
        assert (heard.code, heard.final["text"], heard.final["audio_ms"]) == (1000, followed.text, 1030)


async def test_nothing_follows_a_finalize_without_audio_after_it(added: tuple[AsrService, Bridge]) -> None:
    """The half-close right after it has an empty final, as does a stream without audio."""
    async with connected(*added) as doors:
        responses = await talk_grpc(doors.stub, [config(), audio(PCM), finalize("one")])
        assert [bool(final.text) for final in finals(responses)] == [True, False]
        (nothing,) = finals(await talk_grpc(doors.stub, [config()]))
        assert nothing.text == ""

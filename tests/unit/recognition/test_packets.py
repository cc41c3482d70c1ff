"""What a stream's results are depends on its bytes and marks, not on how or when they came."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_service.core.values import Encoding, EndpointingConfig, FinalReason, Result, StreamConfig
from asr_service.model.null import NullModel
from asr_service.recognition.states import Work
from testbed.stepped_stream import SteppedStream
from tests.support.streams import UNIX_MS, SignallingModel, drain, new_stream, silence, speech, step

MODELS = {
    made: [kind(slots=1, att_context=(70, right)) for right in (0, 1, 6, 13)]
    for made, kind in (("words", NullModel), ("words and signals", SignallingModel))
}

configs = st.builds(
    StreamConfig,
    name=st.just("test"),
    encoding=st.sampled_from(Encoding),
    sample_rate=st.sampled_from([8_000, 11_025, 16_000, 44_100, 48_000, 192_000]),
    interim_results=st.booleans(),
    word_times=st.just(True),
    endpointing=st.none() | st.builds(EndpointingConfig, st.integers(100, 500), st.sampled_from([0, 700])),
    language=st.sampled_from(["", "en-US"]),
    end_tokens=st.booleans(),
)

Script = list[bytes | str]
"""Audio, and the tags of finalize requests, in order."""


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Speech and silence of odd lengths, cut at odd places by finalize requests."""
    script: Script = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from([speech, silence]))
        script.append(kind(draw(st.floats(0, 0.9)))[draw(st.integers(0, 1)) :])
        if draw(st.booleans()):
            script.append(draw(st.sampled_from(["", "tag"])))
    return script


def play(
    stream: SteppedStream, model: NullModel, script: Script, packets: list[int], *, patient: bool
) -> list[Result]:
    """All results of a script; patient: nothing is stepped before everything has come."""
    results: list[Result] = []
    count = 0
    for part in script:
        if isinstance(part, str):
            results += stream.finalize(part, float(count), UNIX_MS)
        else:
            start = 0
            while start < len(part):
                size = packets[count % len(packets)]
                stream.audio(part[start : start + size], float(count))
                start, count = start + size, count + 1
                if not patient:
                    results += drain(stream, model)
        if not patient:
            results += drain(stream, model)
    results += stream.half_close(float(count), UNIX_MS)
    results += drain(stream, model)
    assert stream.work is Work.ENDED
    return results


@settings(deadline=None, max_examples=100)
@given(
    configs,
    scripts(),
    st.sampled_from([model for models in MODELS.values() for model in models]),
    st.lists(st.integers(1, 7_000), min_size=1, max_size=5),
    st.booleans(),
)
def test_results_do_not_depend_on_packets_or_on_timing(
    config: StreamConfig, script: Script, model: NullModel, packets: list[int], patient: bool
) -> None:
    whole = play(new_stream(model, config), model, script, [10**9], patient=True)
    assert play(new_stream(model, config), model, script, packets, patient=patient) == whole
    answered = [result.tag for result in whole if result.reason and result.reason.value == "finalize"]
    assert answered == [part for part in script if isinstance(part, str)]
    assert [result.utterance for result in whole if result.reason] == list(
        range(sum(result.reason is not None for result in whole))
    )
    times = [time for result in whole for word in result.words for time in (word.start_ms, word.end_ms)]
    assert times == sorted(times)
    assert all(word.end_ms <= result.audio_ms for result in whole for word in result.words)
    assert all(0 <= result.confidence <= 1 for result in whole)
    assert not any("<" in result.text for result in whole)
    ended = [result for result in whole if result.reason is FinalReason.END_OF_UTTERANCE]
    assert all(result.text for result in ended)
    assert config.end_tokens or not ended


@settings(deadline=None, max_examples=10)
@given(configs, scripts(), st.sampled_from(sorted(MODELS)))
def test_one_byte_at_a_time(config: StreamConfig, script: Script, kind: str) -> None:
    model = MODELS[kind][1]
    short = [part[:4_001] if isinstance(part, bytes) else part for part in script]
    whole = play(new_stream(model, config), model, short, [10**9], patient=True)
    assert play(new_stream(model, config), model, short, [1], patient=False) == whole


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 3), st.floats(0.5, 6.0))
def test_after_its_end_of_an_utterance_a_model_hears_what_a_new_stream_would(
    seed: int, place: int, seconds: float
) -> None:
    """No audio is left out or heard twice, and times go on."""
    model = MODELS["words and signals"][place]
    config = StreamConfig("test", interim_results=False, word_times=True)
    data = speech(seconds, seed=seed)
    told = recognize_whole(model, data, config)
    for number, (samples, result) in enumerate(told[:4]):
        if result.reason is not FinalReason.END_OF_UTTERANCE:
            continue
        alone, later = recognize_whole(model, data[2 * samples :], config), told[number + 1 :]
        assert [(r.text, r.reason) for _, r in later] == [(r.text, r.reason) for _, r in alone]
        for (ours_at, ours), (theirs_at, theirs) in zip(later, alone, strict=True):
            assert ours_at == samples + theirs_at
            for word, other in zip(ours.words, theirs.words, strict=True):
                assert word.text == other.text
                moved = [word.start_ms - other.start_ms, word.end_ms - other.end_ms]
                assert moved == pytest.approx([samples / 16] * 2, abs=1)


def recognize_whole(model: NullModel, data: bytes, config: StreamConfig) -> list[tuple[int, Result]]:
    """The results of a stream that is there as a whole, each with the samples that were stepped before it."""
    stream = new_stream(model, config)
    stream.audio(data, 0.0)
    results, samples = [(0, result) for result in stream.half_close(0.0, UNIX_MS)], 0
    while stream.ready_at is not None:
        samples += len(stream.request().samples)
        results += [(samples, result) for result in step(stream, model)]
    return results


def test_twenty_minutes_of_silence_do_not_grow() -> None:
    model = MODELS["words"][1]
    stream = new_stream(model, StreamConfig("test", word_times=True, endpointing=EndpointingConfig()))
    second = silence(1.0)

    def hear(start: int, end: int) -> None:
        for now in range(start, end):
            stream.audio(second, float(now))
            assert {result.text for result in drain(stream, model)} == {""}
            if now % 10 == 0:
                stream.finalize("", float(now), UNIX_MS)
                drain(stream, model)

    hear(0, 60)
    tracemalloc.start()
    hear(60, 120)
    before = tracemalloc.get_traced_memory()[0]
    hear(120, 1_200)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 6_000

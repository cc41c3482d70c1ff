from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.errors import OutOfOrder
from asr_service.core.values import Encoding, EndpointingConfig, FinalReason, Result, StreamConfig, Word
from asr_service.model.null import NullModel
from asr_service.recognition.chunk_cutter import BURST_S
from asr_service.recognition.states import INPUT, WORK, Happening, Input, Work, tables
from testbed.by_request import StepResult
from testbed.stepped_stream import SteppedStream
from tests.support.streams import UNIX_MS, drain, finals, new_stream, recognize, silence, speech, step

FINALIZE, END, ENDPOINT = FinalReason.FINALIZE, FinalReason.END_OF_STREAM, FinalReason.ENDPOINT


@pytest.fixture
def model() -> NullModel:
    return NullModel(slots=2)


@pytest.fixture
def stream(model: NullModel) -> SteppedStream:
    return new_stream(model)


# ------------------------------------------------------------------------------------------------------------- chunks


def test_a_step_is_ready_with_the_last_byte_of_its_chunk(stream: SteppedStream, model: NullModel) -> None:
    first, full = 2 * model.info.first_chunk_samples, 2 * model.info.chunk_samples
    stream.audio(bytes(first - 1), 1.0)
    assert stream.ready_at is None
    stream.audio(bytes(1), 2.0)
    assert stream.ready_at == 2.0
    request = stream.request()
    assert (len(request.samples), request.is_first, request.is_last) == (
        model.info.first_chunk_samples,
        True,
        False,
    )
    step(stream, model)
    stream.audio(bytes(full - 1), 3.0)
    assert stream.ready_at is None
    stream.audio(bytes(1), 4.0)
    request = stream.request()
    assert (len(request.samples), request.is_first, request.is_last) == (
        model.info.chunk_samples,
        False,
        False,
    )


def test_an_interim_for_every_step_even_if_nothing_changed(stream: SteppedStream, model: NullModel) -> None:
    stream.audio(silence(1.0), 0.0)
    results = drain(stream, model)
    chunks = 1 + (16_000 - model.info.first_chunk_samples) // model.info.chunk_samples
    assert [(result.text, result.reason, result.utterance) for result in results] == [("", None, 0)] * chunks
    assert [result.audio_ms for result in results[:3]] == [92, 252, 412]
    assert {result.made_unix_ms for result in results} == {UNIX_MS}


def test_without_interims_only_finals(model: NullModel) -> None:
    results = recognize(model, speech(1.0), StreamConfig("test", interim_results=False))
    assert [result.reason for result in results] == [END]
    assert results[0].text == recognize(model, speech(1.0))[-1].text != ""


def test_what_was_heard_is_the_last_final_of_a_stream_whose_model_is_gone(
    stream: SteppedStream, model: NullModel
) -> None:
    stream.audio(speech(1.0), 0.0)
    *_, interim = drain(stream, model)
    final = stream.break_off(UNIX_MS)
    assert final is not None
    assert (final.text, final.reason, final.utterance) == (interim.text, FinalReason.ENDED_BY_SERVER, 0)
    assert (stream.work, stream.input, stream.ready_at) == (Work.ENDED, Input.CLOSED, None)
    assert stream.break_off(UNIX_MS) is None
    assert new_stream(model).break_off(UNIX_MS) is None


def test_bytes_wait_until_they_are_cut(stream: SteppedStream, model: NullModel) -> None:
    data = speech(1.0) + b"\x01"
    first = 2 * model.info.first_chunk_samples
    stream.audio(data, 0.0)
    assert stream.waiting_bytes == len(data) - first
    stream.half_close(0.0, UNIX_MS)
    drain(stream, model)
    assert stream.waiting_bytes == 0


def test_where_the_next_chunk_ends_is_told(stream: SteppedStream, model: NullModel) -> None:
    first, full = 2 * model.info.first_chunk_samples, 2 * model.info.chunk_samples
    assert stream.next_chunk == (first, full)
    stream.audio(bytes(first + 100), 0.0)
    assert stream.next_chunk == (first + full, full)
    drain(stream, model)
    assert stream.next_chunk == (first + full, full)
    stream.finalize("", 0.0, UNIX_MS)
    assert stream.next_chunk == (0, 0), "the finalize request says where the next chunk ends"
    drain(stream, model)
    assert stream.next_chunk == (first + 100 + first, full)


# ---------------------------------------------------------------------------------------------------------- finalize


def test_finalize_flushes_with_the_true_length_and_starts_a_new_segment(
    stream: SteppedStream, model: NullModel
) -> None:
    stream.audio(speech(0.2), 0.0)
    drain(stream, model)
    assert stream.finalize("one", 1.0, UNIX_MS) == []
    request = stream.request()
    assert (len(request.samples), request.is_last) == (3_200 - model.info.first_chunk_samples, True)
    (final,) = step(stream, model)
    assert (final.reason, final.tag, final.utterance, final.audio_ms) == (FINALIZE, "one", 0, 200)
    assert final.text
    assert stream.work is Work.FRESH
    stream.audio(speech(0.1), 2.0)
    assert stream.request().is_first
    (interim,) = drain(stream, model)
    assert (interim.utterance, interim.audio_ms) == (1, 292)


LENGTHS = st.integers(0, 9_000) | st.sampled_from([0, 1, 1_480, 2_560, 4_040, 5_120])


@given(st.lists(LENGTHS, min_size=1, max_size=4), st.sampled_from([1, 80, 160, 400]), st.integers(1, 4_000))
def test_silence_after_a_segment_is_heard_and_on_no_clock(
    lengths: list[int], silence_ms: int, packet: int
) -> None:
    """Texts are those of a stream that was sent the silence, at its end too; times are those of one that was not."""
    model = NullModel(slots=1)
    config = StreamConfig(
        "test", word_times=True, interim_results=False, endpointing=EndpointingConfig(800, 0)
    )
    loud = speech(3.0)

    def run(added_ms: int, sent: bytes) -> list[Result]:
        stream = new_stream(model, config, finalize_silence_ms=added_ms)
        results: list[Result] = []
        for number, length in enumerate(lengths):
            is_end = number == len(lengths) - 1
            data = loud[number : number + 2 * length] + (sent if length else b"")
            for start in range(0, len(data), packet):
                stream.audio(data[start : start + packet], 0.0)
                results += drain(stream, model)
            results += stream.half_close(0.0, 0) if is_end else stream.finalize(str(number), 0.0, 0)
            results += drain(stream, model)
        return results

    added, sent, plain = run(silence_ms, b""), run(0, silence(silence_ms / 1000)), run(0, b"")
    for ours, theirs, bare in zip(added, sent, plain, strict=True):
        assert (ours.reason, ours.tag, ours.text) == (theirs.reason, theirs.tag, theirs.text)
        assert ours.audio_ms == bare.audio_ms
        assert all(word.end_ms <= ours.audio_ms for word in ours.words)


def test_that_silence_ends_no_utterance(model: NullModel) -> None:
    config = StreamConfig("test", interim_results=False, endpointing=EndpointingConfig(800, 0))
    stream = new_stream(model, config, finalize_silence_ms=400)
    stream.audio(speech(0.5) + silence(0.6), 0.0)
    results = drain(stream, model) + stream.finalize("now", 0.0, UNIX_MS)
    results += drain(stream, model)
    assert [(result.reason, result.tag, result.audio_ms) for result in results] == [(FINALIZE, "now", 1100)]


def test_a_finalize_with_silence_is_due_at_once(model: NullModel) -> None:
    """However often: the silence takes no time, so that later audio is not late either."""
    stream = new_stream(model, finalize_silence_ms=400)
    for second in range(20):
        stream.audio(speech(0.25), float(second))
        drain(stream, model)
        stream.finalize("", float(second), UNIX_MS)
        while stream.ready_at is not None:
            assert stream.ready_at <= second
            step(stream, model, float(second))


def test_finalize_with_nothing_before_it_is_answered_at_once(stream: SteppedStream) -> None:
    answers = stream.finalize("a", 0.0, UNIX_MS) + stream.finalize("b", 0.0, UNIX_MS)
    assert finals(answers) == [(FINALIZE, "a", ""), (FINALIZE, "b", "")]
    assert [answer.utterance for answer in answers] == [0, 1]


def test_finalize_right_after_a_full_chunk_needs_no_step(stream: SteppedStream, model: NullModel) -> None:
    stream.audio(speech(1.0)[: 2 * model.info.first_chunk_samples], 0.0)
    interim = drain(stream, model)[-1]
    (final,) = stream.finalize("", 1.0, UNIX_MS)
    assert (final.reason, final.text) == (FINALIZE, interim.text)


def test_finalize_while_the_full_chunk_before_it_waits(stream: SteppedStream, model: NullModel) -> None:
    stream.audio(speech(1.0)[: 2 * model.info.first_chunk_samples], 0.0)
    assert stream.finalize("", 0.0, UNIX_MS) == []
    assert not stream.request().is_last
    interim, final = step(stream, model)  # as if the mark had come later
    assert (interim.reason, interim.text) == (None, final.text)
    assert final.reason is FINALIZE
    assert stream.ready_at is None


def test_marks_and_audio_keep_their_order(model: NullModel) -> None:
    parts = [speech(0.5, seed=1), speech(0.05, seed=2), speech(0.7, seed=3)]
    alone = [recognize(model, part)[-1].text for part in parts]
    stream = new_stream(model)
    for number, part in enumerate(parts):
        stream.audio(part, 0.0)
        stream.finalize(str(number), 0.0, UNIX_MS)
    stream.half_close(0.0, UNIX_MS)
    results = drain(stream, model)
    expected = [(FINALIZE, str(number), text) for number, text in enumerate(alone)]
    assert finals(results) == [*expected, (END, "", "")]
    assert [result.utterance for result in results if result.reason] == [0, 1, 2, 3]
    assert results[-1].audio_ms == 1_250


def test_words_stay_on_the_streams_clock(model: NullModel) -> None:
    stream = new_stream(model, StreamConfig("test", word_times=True))
    words: list[Word] = []
    for _ in range(3):
        stream.audio(speech(0.33), 0.0)
        stream.finalize("", 0.0, UNIX_MS)
        final = drain(stream, model)[-1]
        assert [word.text for word in final.words] == final.text.split()
        assert final.words[-1].end_ms <= final.audio_ms
        words += final.words
    times = [time for word in words for time in (word.start_ms, word.end_ms)]
    assert times == sorted(times)
    assert words[5].start_ms >= 330


def test_half_a_sample_before_a_mark_belongs_to_what_follows(stream: SteppedStream, model: NullModel) -> None:
    data = speech(0.4)
    stream.audio(data[:6_401], 0.0)
    stream.finalize("", 0.0, UNIX_MS)
    stream.audio(data[6_401:], 0.0)
    stream.half_close(0.0, UNIX_MS)
    texts = [result.text for result in drain(stream, model) if result.reason]
    assert texts == [recognize(model, data[:6_400])[-1].text, recognize(model, data[6_400:])[-1].text]


# --------------------------------------------------------------------------------------------------------- half-close


def test_a_stream_without_audio_ends_with_an_empty_final(stream: SteppedStream) -> None:
    (final,) = stream.half_close(0.0, UNIX_MS)
    assert (final.reason, final.text, final.utterance, final.audio_ms) == (END, "", 0, 0)
    assert stream.work is Work.ENDED


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_stream_of_a_sample_or_less(model: NullModel, size: int) -> None:
    assert finals(recognize(model, bytes(size))) == [(END, "", "")]


def test_the_last_final_comes_after_the_last_finalize_even_if_empty(
    stream: SteppedStream, model: NullModel
) -> None:
    stream.audio(speech(0.5), 0.0)
    stream.finalize("x", 0.0, UNIX_MS)
    drain(stream, model)
    assert finals(stream.half_close(0.0, UNIX_MS)) == [(END, "", "")]


@pytest.mark.parametrize(
    ("happening", "send"),
    [
        ("audio", lambda stream: stream.audio(b"..", 0.0)),
        ("finalize", lambda stream: stream.finalize("", 0.0, UNIX_MS)),
        ("half-close", lambda stream: stream.half_close(0.0, UNIX_MS)),
    ],
)
def test_nothing_follows_the_half_close(
    stream: SteppedStream, model: NullModel, happening: str, send: Callable[[SteppedStream], object]
) -> None:
    stream.audio(speech(0.05), 0.0)
    stream.half_close(0.0, UNIX_MS)
    with pytest.raises(OutOfOrder, match=happening):
        send(stream)
    assert finals(drain(stream, model))[-1][0] is END


def test_cancel_ends_the_stream_with_steps_and_marks_pending(stream: SteppedStream) -> None:
    stream.audio(speech(5.0), 0.0)
    stream.finalize("", 0.0, UNIX_MS)
    stream.cancel()
    assert (stream.work, stream.input, stream.ready_at) == (Work.ENDED, Input.CLOSED, None)


# ------------------------------------------------------------------------------------------------------- when it is due


def test_live_audio_is_due_when_it_came(stream: SteppedStream, model: NullModel) -> None:
    due, packet = [], silence(0.02)
    for number in range(1, 200):
        now = 0.02 * max(number, number // 50 * 50 + 15)  # a network holds up 15 packets of 50
        stream.audio(packet, now)
        if stream.ready_at is not None:
            due.append(stream.ready_at - now)
            drain(stream, model)
    assert len(due) > 20
    assert set(due) == {0.0}


def due_times(stream: SteppedStream, model: NullModel, now: float) -> list[float]:
    due = []
    while stream.ready_at is not None:
        due.append(stream.ready_at)
        step(stream, model, now)
    return due


def test_an_upload_is_due_as_its_audio_would_have_been_spoken(model: NullModel) -> None:
    stream = new_stream(model, now=100.0)
    stream.audio(silence(5.0), 100.0)
    due = due_times(stream, model, 100.0)
    info = model.info
    chunks = [(info.first_chunk_samples + number * info.chunk_samples) / 16_000 for number in range(len(due))]
    assert due == pytest.approx([100.0 + max(0.0, chunk - BURST_S) for chunk in chunks])


def test_a_burst_after_a_pause_is_live_for_a_second_and_an_upload_then(model: NullModel) -> None:
    stream = new_stream(model, now=0.0)
    stream.audio(silence(10.0), 60.0)
    due = due_times(stream, model, 60.0)
    assert due.count(60.0) * 0.16 == pytest.approx(BURST_S, abs=0.2)
    assert due == sorted(due)
    assert due[-1] == pytest.approx(60.0 + 10.0 - BURST_S, abs=0.3)


def test_a_second_chunk_that_waited_is_due_behind_what_came_before_the_first_was_done(
    model: NullModel,
) -> None:
    stream = new_stream(model)
    stream.audio(silence(0.5), 1.0)
    step(stream, model, 1.25)
    assert stream.ready_at == 1.25


def test_a_flush_is_due_when_it_was_asked_for(stream: SteppedStream, model: NullModel) -> None:
    stream.audio(silence(10.0), 0.0)
    stream.half_close(0.5, UNIX_MS)
    while not stream.request().is_last:
        step(stream, model)
    assert stream.ready_at == 0.5


# ---------------------------------------------------------------------------------------------------------- endpoints


def test_an_endpoint_ends_the_utterance_and_not_the_segment(model: NullModel) -> None:
    stream = new_stream(model, StreamConfig("test", endpointing=EndpointingConfig(800, 0)))
    stream.audio(speech(0.5) + silence(1.5) + speech(0.5, seed=4), 0.0)
    requests, results = [], []
    while stream.ready_at is not None:
        requests.append(stream.request().is_first)
        results += step(stream, model)
    assert requests == [True] + [False] * (len(requests) - 1)
    ends = [number for number, result in enumerate(results) if result.reason is ENDPOINT]
    assert len(ends) == 1
    end = ends[0]
    assert results[end].text == results[end - 1].text != ""
    assert 1_300 <= results[end].audio_ms <= 1_300 + 2 * 160  # 800 ms after the last word
    assert [result.utterance for result in results] == [0] * (end + 1) + [1] * (len(results) - end - 1)
    assert results[end + 1].text == ""
    assert results[-1].text != ""


def test_an_endpoint_in_the_first_step_leaves_what_is_heard_in_its_place() -> None:
    """Nobody spoke in time; then a word of which the second step holds loud frames alone."""
    model = NullModel(slots=1, att_context=(70, 13))
    stream = new_stream(model, StreamConfig("test", endpointing=EndpointingConfig(500, 0, 800)))
    stream.audio(silence((200 + 11 * 1280) / 16_000) + speech(1.4), 0.0)  # quiet up to frame 12
    first = stream.take(StepResult((1,), (12,), (1.0,), 14), 0.0, UNIX_MS)
    assert [result.reason for result in first] == [FinalReason.ENDPOINT, None]
    second = stream.take(StepResult((), (), (), 14), 0.0, UNIX_MS)
    assert [result.reason for result in second] == [None]


@pytest.mark.parametrize("right", [0, 1, 6, 13])
def test_endpoints_lie_at_the_same_words_for_every_look_ahead(right: int) -> None:
    data = silence(1.0).join(speech(0.5, seed=seed) for seed in range(5))
    config = StreamConfig("test", endpointing=EndpointingConfig(500, 0))
    results = recognize(NullModel(slots=1, att_context=(70, right)), data, config)
    reference = recognize(NullModel(slots=1), data, config)
    assert finals(results) == finals(reference)
    assert [reason for reason, _, _ in finals(results)] == [ENDPOINT] * 4 + [END]


def test_a_flush_gives_its_own_final_and_no_endpoint_before_it(model: NullModel) -> None:
    stream = new_stream(model, StreamConfig("test", endpointing=EndpointingConfig(160, 0)))
    stream.audio(speech(0.5), 0.0)
    drain(stream, model)
    stream.audio(silence(0.15), 0.0)
    stream.finalize("x", 0.0, UNIX_MS)
    ((reason, tag, text),) = finals(drain(stream, model))
    assert (reason, tag) == (FINALIZE, "x")
    assert text


# ------------------------------------------------------------------------------------------------------- other rates


@pytest.mark.parametrize("rate", [8_000, 11_025, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("packet", [1, 333, 10**6])
def test_resampled_streams_do_not_depend_on_packets(model: NullModel, rate: int, packet: int) -> None:
    data = speech(0.4, rate)
    config = StreamConfig("test", sample_rate=rate, interim_results=False, word_times=True)
    (final,) = recognize(model, data, config, packet)
    assert (final,) == tuple(recognize(model, data, config))
    assert final.audio_ms == 400
    assert len(final.words) >= 4


def test_resampled_audio_is_complete_before_each_mark(model: NullModel) -> None:
    parts = [speech(0.3, 8_000, seed) for seed in range(4)]
    config = StreamConfig("test", sample_rate=8_000)
    stream = new_stream(model, config)
    for part in parts:
        stream.audio(part, 0.0)
        stream.finalize("", 0.0, UNIX_MS)
    results = [result for result in drain(stream, model) if result.reason]
    assert [result.text for result in results] == [recognize(model, part, config)[-1].text for part in parts]
    assert [result.audio_ms for result in results] == [300, 600, 900, 1_200]


def test_mulaw(model: NullModel) -> None:
    stream = new_stream(model, StreamConfig("test", Encoding.MULAW, 8_000))
    stream.audio(b"\xff" * 4_000, 0.0)
    results = drain(stream, model) + stream.half_close(0.0, UNIX_MS) + drain(stream, model)
    assert (results[-1].text, results[-1].audio_ms) == ("", 500)


# ------------------------------------------------------------------------------------------------------------- tables


def test_every_state_of_the_tables_is_reached_and_every_move_leads_to_a_state() -> None:
    assert {state for row in INPUT.values() for state in row.values()} <= set(INPUT) == set(Input)
    assert {state for row in WORK.values() for state in row.values()} <= set(WORK) == set(Work)
    assert {happening for table in (INPUT, WORK) for row in table.values() for happening in row} == set(
        Happening
    )


def test_the_tables_print_as_markdown() -> None:
    assert tables().startswith("| input | audio | finalize | half-close | cancel |\n| --- |")
    assert "| running | ended | running | fresh | fresh | ended |" in tables()

"""What a model says beside words: the language it hears, that an utterance is over, marks that come late."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asr_service.core.values import EndpointingConfig, FinalReason, PhraseBoost, Result, StreamConfig
from asr_service.model.null import NullModel
from asr_service.recognition.states import Work
from asr_service.recognition.vocabulary import Vocabulary
from testbed.by_request import StepRequest, StepResult
from testbed.stepped_stream import SteppedStream
from tests.support.streams import UNIX_MS

PLAIN, WORDS = StreamConfig("test", interim_results=False), StreamConfig("test", word_times=True)
ENDPOINT, OVER = FinalReason.ENDPOINT, FinalReason.END_OF_UTTERANCE
FINALIZE, END = FinalReason.FINALIZE, FinalReason.END_OF_STREAM


class Talk:
    """A stream whose steps say what a test wants; the audio is silence.

    Attributes:
        requests: of the steps so far.
        results: of everything so far.
    """

    def __init__(self, config: StreamConfig, *, right: int = 1, silence_ms: int = 0) -> None:
        base = NullModel(slots=1, att_context=(70, right)).info
        self.info = replace(base, pieces=PIECES, prompts=(("en-US", 3), ("auto", 7)))
        self.stream = SteppedStream(config, self.info, Vocabulary(PIECES), 0.0, silence_ms)
        self.requests: list[StepRequest] = []
        self.results: list[Result] = []

    def hear(self, *said: str, at: int = 0) -> list[Result]:
        """Hears a whole chunk: a piece a frame, from frame `at` of the chunk on; its last frame holds the rest."""
        is_first = self.stream.work is Work.FRESH
        self.stream.audio(
            bytes(2 * (self.info.first_chunk_samples if is_first else self.info.chunk_samples)), 0.0
        )
        return self.step(*said, at=at)

    def step(self, *said: str, at: int = 0) -> list[Result]:
        """Steps the chunk that is ready."""
        self.requests.append(self.stream.request())
        before = len(self.requests) - 1
        while not self.requests[before].is_first:
            before -= 1
        first = self.info.chunk_frames * (len(self.requests) - 1 - before)
        frames = [first + min(at + number, self.info.chunk_frames - 1) for number in range(len(said))]
        tokens = tuple(PIECES.index(piece) for piece in said)
        answer = StepResult(tokens, tuple(frames), (0.5,) * len(said), self.info.chunk_frames)
        return self._take(self.stream.take(answer, 0.0, UNIX_MS))

    def finalize(self) -> list[Result]:
        return self._take(self.stream.finalize("tag", 0.0, UNIX_MS))

    def half_close(self) -> list[Result]:
        return self._take(self.stream.half_close(0.0, UNIX_MS))

    def _take(self, results: list[Result]) -> list[Result]:
        self.results += results
        return results

    @property
    def finals(self) -> list[tuple[FinalReason, str]]:
        return [(result.reason, result.text) for result in self.results if result.reason]


PIECES = (
    *("<unk>", "<EOU>", "<EOB>", "<en-US>", "\u2581<de-DE>", "<fil-PH>", "<spk>", "\u2581"),
    *(
        "\u2581UK",
        "\u2581What",
        "\u2581is",
        "What",
        "lo",
        "?",
        "!",
        ".",
        ",",
        "\u2581?",
        "\u2581\u00bf",
        '"',
        '\u2581"',
    ),
    *("<0xE3>", "<0x80>", "<0x82>", "<0xC3>", "<0xA9>"),
)


def of(results: list[Result]) -> list[tuple[FinalReason | None, str]]:
    return [(result.reason, result.text) for result in results]


# ------------------------------------------------------------------------------------------------------ language tags


def test_a_tag_is_the_detected_language_and_no_text() -> None:
    talk = Talk(WORDS)
    (before,) = talk.hear("\u2581UK", ".")
    (after,) = talk.hear("<en-US>", "\u2581What")
    assert (before.language, before.text) == ("", "UK.")
    assert (after.language, after.text) == ("en-US", "UK. What")
    talk.hear("\u2581<de-DE>")
    talk.finalize()
    (final,) = [result for result in talk.results if result.reason]
    assert (final.language, final.text) == ("de-DE", "UK. What")
    assert [(word.text, word.confidence) for word in final.words] == [("UK.", 0.5), ("What", 0.5)]
    talk.hear("\u2581is", "<fil-PH>")
    assert talk.results[-1].language == "fil-PH", "three letters, and the newest counts in every utterance"


@pytest.mark.parametrize(("wanted", "told"), [("", ""), ("auto", ""), ("en-US", "en-US")])
def test_before_any_tag_the_language_is_the_one_that_was_asked_for(wanted: str, told: str) -> None:
    talk = Talk(replace(WORDS, language=wanted))
    talk.hear("\u2581UK")
    assert talk.results[-1].language == told
    talk.hear("\u2581<de-DE>")
    talk.finalize()
    assert talk.results[-1].language == "de-DE"


def test_the_space_before_a_tag_goes_with_it() -> None:
    talk = Talk(WORDS)
    talk.hear("\u2581UK", ".")
    talk.hear("\u2581", "<en-US>")
    assert talk.results[-1].text == "UK."
    talk.hear("\u2581", "<en-US>", "\u2581What")
    talk.hear("\u2581", "<en-US>", "lo")
    talk.finalize()
    assert talk.finals == [(FINALIZE, "UK. Whatlo")]
    assert [word.text for word in talk.results[-1].words] == ["UK.", "Whatlo"]


def test_a_tag_after_an_endpoint_neither_opens_an_utterance_nor_is_text_of_it() -> None:
    talk = Talk(replace(PLAIN, endpointing=EndpointingConfig(160, 0)))
    talk.hear("\u2581UK", ".")
    talk.hear()
    talk.hear("\u2581", "<en-US>")
    for _ in range(20):
        talk.hear()
    talk.hear("\u2581What")
    talk.hear("<en-US>")
    talk.hear()
    assert talk.finals == [(ENDPOINT, "UK."), (ENDPOINT, "What")]
    assert [result.language for result in talk.results] == ["", "en-US"]


@pytest.mark.parametrize("late", ["<en-US>", "\u2581<de-DE>", "?", "\u2581?", "\u2581", "."])
def test_tags_and_marks_do_not_move_the_end_of_a_pause(late: str) -> None:
    talk = Talk(replace(PLAIN, endpointing=EndpointingConfig(480, 0)))
    talk.hear("\u2581UK", at=1)
    talk.hear()
    talk.hear(late)
    assert talk.finals == []
    talk.hear()
    assert [reason for reason, _ in talk.finals] == [ENDPOINT]


# --------------------------------------------------------------------------------------------------- ends of utterances


@pytest.mark.parametrize("end", ["<EOU>", "<EOB>"])
def test_an_end_token_is_no_text_ends_the_utterance_and_the_model_starts_anew(end: str) -> None:
    boosts = (PhraseBoost(("UK",)),)
    talk = Talk(replace(WORDS, boosts=boosts, language="en-US"))
    talk.hear("\u2581UK")
    assert of(talk.hear("lo", end)) == [(OVER, "UKlo")], "and no interim of an utterance that has nothing"
    assert talk.stream.work is Work.FRESH
    assert talk.stream.restarted
    assert of(talk.hear("\u2581What", at=1)) == [(None, "What")]
    assert not talk.stream.restarted
    talk.finalize()
    assert talk.finals == [(OVER, "UKlo"), (FINALIZE, "What")]
    assert [result.utterance for result in talk.results] == [0, 0, 1, 1]
    info = talk.info
    assert [(len(request.samples), request.is_first, request.is_last) for request in talk.requests] == [
        (info.first_chunk_samples, True, False),
        (info.chunk_samples, False, False),
        (info.first_chunk_samples, True, False),
    ]
    assert [(request.boosts, request.prompt) for request in talk.requests] == [
        (boosts, 3),
        ((), -1),
        (boosts, 3),
    ]
    # First chunks of 92.5 ms, others of 160.
    assert [result.audio_ms for result in talk.results] == [92, 252, 345, 345]
    (word,) = talk.results[-1].words
    assert (word.start_ms, word.end_ms) == (332, 345), "on the stream's clock"


def test_without_a_word_there_is_no_final_and_the_model_starts_anew_all_the_same() -> None:
    talk = Talk(WORDS)
    assert of(talk.hear("<EOU>")) == [(None, "")]
    assert talk.stream.work is Work.FRESH
    talk.hear("\u2581UK", "<EOU>")
    talk.hear("\u2581", "<EOB>", "<en-US>")
    talk.half_close()
    assert talk.finals == [(OVER, "UK"), (END, "")]
    assert [request.is_first for request in talk.requests] == [True] * 3


def test_an_endpoint_before_it_leaves_it_nothing_to_end() -> None:
    talk = Talk(replace(PLAIN, endpointing=EndpointingConfig(160, 0)))
    talk.hear("\u2581UK")
    talk.hear()
    talk.hear("<EOU>")
    talk.half_close()
    assert talk.finals == [(ENDPOINT, "UK"), (END, "")]


def test_what_follows_it_in_the_same_step_is_the_next_utterance() -> None:
    talk = Talk(WORDS, right=6)
    assert of(talk.hear("\u2581UK", "<EOU>", "\u2581What", "lo")) == [(OVER, "UK"), (None, "Whatlo")]
    talk.hear("\u2581is", "<EOU>", "<EOU>")
    assert talk.finals == [(OVER, "UK"), (OVER, "Whatlo is")]
    times = [
        time for result in talk.results for word in result.words for time in (word.start_ms, word.end_ms)
    ]
    assert times == sorted(times)
    assert times[2] == 160, "the word was heard before the model started anew"


def test_a_mark_right_behind_it_still_belongs_to_the_utterance() -> None:
    talk = Talk(PLAIN, right=6)
    talk.hear("\u2581UK", "<EOU>", "?", "<en-US>", "\u2581\u00bf", "What")
    talk.finalize()
    assert talk.finals == [(OVER, "UK?"), (FINALIZE, "\u00bfWhat")]


def test_where_they_are_not_wanted_the_utterance_goes_on_and_the_model_starts_anew() -> None:
    talk = Talk(replace(WORDS, end_tokens=False, endpointing=EndpointingConfig(480, 0)))
    talk.hear("\u2581UK")
    talk.hear("<EOU>")
    talk.hear("\u2581What")
    talk.hear("\u2581is", "<EOB>")
    assert [request.is_first for request in talk.requests] == [True, False, True, False]
    talk.hear()
    talk.hear()
    talk.hear(), "three pauses of two frames each, across segments"
    assert talk.finals == [(ENDPOINT, "UK What is")]
    (final,) = [result for result in talk.results if result.reason]
    assert [(word.text, word.start_ms) for word in final.words] == [("UK", 0), ("What", 252), ("is", 412)]
    assert final.audio_ms == round(3 * 92.5 + 4 * 160)


def test_the_final_of_a_finalize_says_what_an_end_token_in_its_flush_would() -> None:
    talk = Talk(PLAIN, silence_ms=400)
    talk.hear("\u2581UK")
    talk.stream.audio(bytes(2_000), 0.0)
    talk.finalize()
    talk.step("lo", "<EOU>")
    assert talk.finals == []
    while talk.stream.ready_at is not None:
        talk.step()
    assert talk.finals == [(FINALIZE, "UKlo")]
    assert [request.is_first for request in talk.requests].count(True) == 1


def test_but_for_what_is_said_after_it() -> None:
    talk = Talk(PLAIN, silence_ms=400)
    talk.stream.audio(bytes(2_000), 0.0)
    talk.finalize()
    talk.step("\u2581UK", "<EOU>")
    talk.step("\u2581What")
    while talk.stream.ready_at is not None:
        talk.step()
    assert talk.finals == [(OVER, "UK"), (FINALIZE, "What")]


def test_a_finalize_after_it_has_its_own_final_though_there_is_nothing_left() -> None:
    talk = Talk(PLAIN, silence_ms=400)
    talk.hear("\u2581UK", "<EOU>")
    talk.finalize()
    assert talk.finals == [(OVER, "UK"), (FINALIZE, "")]
    assert talk.results[-1].tag == "tag"


def test_audio_that_waits_is_cut_for_the_model_that_starts_anew() -> None:
    """All of it has come, with a finalize request behind it, when the first chunk is answered."""
    talk = Talk(PLAIN)
    info = talk.info
    samples = 3 * info.first_chunk_samples + 500
    talk.stream.audio(bytes(2 * samples), 0.0)
    talk.finalize()
    while talk.stream.ready_at is not None:
        talk.step("\u2581UK", *(["<EOU>"] if len(talk.requests) < 2 else []))
    sizes = [len(request.samples) for request in talk.requests]
    assert sizes == [info.first_chunk_samples] * 3 + [500]
    assert [(request.is_first, request.is_last) for request in talk.requests] == [
        *[(True, False)] * 3,
        (False, True),
    ]
    assert talk.finals == [(OVER, "UK"), (OVER, "UK"), (FINALIZE, "UK UK")]


def test_where_the_next_chunk_ends_is_told_again() -> None:
    talk = Talk(PLAIN)
    first, full = 2 * talk.info.first_chunk_samples, 2 * talk.info.chunk_samples
    talk.stream.audio(bytes(first + 100), 0.0)
    assert talk.stream.next_chunk == (first + full, full)
    talk.step("<EOU>")
    assert talk.stream.next_chunk == (first + first, full)


# ---------------------------------------------------------------------------------------------------------------- marks


def pause(talk: Talk) -> None:
    """Lets two chunks of silence pass, so that the utterance ends."""
    count = len(talk.finals)
    talk.hear()
    talk.hear()
    assert len(talk.finals) == count + 1


@pytest.mark.parametrize(
    ("late", "text"),
    [
        (["?", "\u2581What"], "What"),
        (["?", '"', "!", "\u2581What"], "What"),
        (["\u2581?", "\u2581What"], "What"),
        (["\u2581", "?", "\u2581What"], "What"),
        (["<0xE3>", "<0x80>", "<0x82>", "What"], "What"),
        (["?", "<en-US>", "\u2581What"], "What"),
        (["\u2581\u00bf", "What", "?"], "\u00bfWhat?"),
        (["?", "\u2581\u00bf", "What", "?"], "\u00bfWhat?"),
        (['"', '\u2581"', "What"], '"What'),
        (["<0xC3>", "<0xA9>", "lo"], "\u00e9lo"),
        (["\u2581What", "?"], "What?"),
    ],
)
def test_a_mark_that_comes_after_an_endpoint_never_opens_the_next_utterance(
    late: list[str], text: str
) -> None:
    talk = Talk(replace(WORDS, endpointing=EndpointingConfig(320, 0)))
    talk.hear("\u2581UK")
    pause(talk)
    for piece in late:
        talk.hear(piece)
    pause(talk)
    assert talk.finals == [(ENDPOINT, "UK"), (ENDPOINT, text)]
    words = [word.text for result in talk.results for word in result.words]
    assert words == ["UK", *text.split()]
    assert not any("\ufffd" in result.text for result in talk.results)


def test_marks_alone_after_an_endpoint_are_no_utterance() -> None:
    talk = Talk(replace(PLAIN, endpointing=EndpointingConfig(320, 0)))
    talk.hear("\u2581UK")
    pause(talk)
    talk.hear("?", "!")
    for _ in range(20):
        talk.hear()
    talk.half_close()
    assert talk.finals == [(ENDPOINT, "UK"), (END, "")]


def test_nor_after_the_end_of_an_utterance_that_is_too_long() -> None:
    talk = Talk(replace(PLAIN, endpointing=EndpointingConfig(0, 320)))
    for _ in range(2):
        talk.hear("\u2581UK", "\u2581is")
    talk.hear("\u2581", "?", "\u2581What")
    talk.half_close()
    assert talk.finals == [(ENDPOINT, "UK is UK is"), (END, "What")]


def test_at_a_segments_start_the_text_is_the_models() -> None:
    talk = Talk(replace(PLAIN, endpointing=EndpointingConfig(320, 0)))
    talk.hear("?", "\u2581UK")
    talk.finalize()
    talk.hear(".", "\u2581What", "<EOU>")
    talk.hear("!", "\u2581is")
    talk.half_close()
    assert talk.finals == [(FINALIZE, "? UK"), (OVER, ". What"), (END, "! is")]


def test_a_late_mark_of_the_step_that_sees_the_pause_ends_the_sentence_before_it() -> None:
    talk = Talk(replace(PLAIN, endpointing=EndpointingConfig(320, 0)), right=13)
    talk.hear("\u2581UK", at=11)
    talk.hear("?", "\u2581What", at=12)
    talk.half_close()
    assert talk.finals == [(ENDPOINT, "UK?"), (END, "What")]


def test_without_punctuation_a_late_mark_is_left_out_as_well() -> None:
    talk = Talk(replace(PLAIN, punctuation=False, endpointing=EndpointingConfig(320, 0)))
    talk.hear("\u2581UK")
    pause(talk)
    talk.hear("?", "\u2581What")
    talk.half_close()
    assert talk.finals == [(ENDPOINT, "uk"), (END, "what")]

"""The values that cross layers, and what the engine asks of a model.

Everything here is frozen and plain (numbers, strings, bytes, tuples, numpy arrays): it may cross a thread or a process
boundary as it is. Nothing here imports torch, nemo or grpc.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""Mono audio, float32 in [-1, 1), shape [n]."""


class Encoding(Enum):
    """How audio bytes are to be read."""

    LINEAR16 = "linear16"
    MULAW = "mulaw"
    ALAW = "alaw"


class FinalReason(Enum):
    """Why a result is final."""

    ENDPOINT = "endpoint"
    FINALIZE = "finalize"
    END_OF_STREAM = "end_of_stream"


@dataclass(frozen=True, slots=True)
class EndpointingConfig:
    """When an utterance ends by itself.

    Attributes:
        trailing_silence_ms: silence after the last word that ends the utterance.
        max_utterance_ms: longest utterance, ended at the next word boundary; 0 for no limit.
        start_timeout_ms: time without a word since the last final after which an empty final is given, once until the
            next word; 0 for never.
    """

    trailing_silence_ms: int = 800
    max_utterance_ms: int = 30_000
    start_timeout_ms: int = 0


DEFAULT_BOOST = 1.0
"""Raises the recall of rare words, even with a long list, and harms no other words: docs/boosting.md."""


@dataclass(frozen=True, slots=True)
class PhraseBoost:
    """Phrases to listen for.

    Attributes:
        phrases: as the client wrote them.
        boost: by how much the logarithm of a token's probability is raised where it goes on with one of them.
    """

    phrases: tuple[str, ...]
    boost: float = DEFAULT_BOOST


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """What one stream asked for, validated.

    Attributes:
        name: the name the client chose or the server made; echoed, not unique.
        encoding: how to read the audio bytes.
        sample_rate: of the client's audio, Hz.
        interim_results: whether interims are sent.
        word_times: whether finals carry words.
        endpointing: None if only the client ends utterances.
        punctuation: whether punctuation and capitals that the model writes stay in the text.
        boosts: phrases to listen for.
    """

    name: str
    encoding: Encoding = Encoding.LINEAR16
    sample_rate: int = 16_000
    interim_results: bool = True
    word_times: bool = False
    endpointing: EndpointingConfig | None = None
    punctuation: bool = True
    boosts: tuple[PhraseBoost, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the layers above the model need to know about it.

    Attributes:
        name: hub name or file name.
        device: "cpu" or "cuda:N".
        precision: "fp32", "tf32" or "bf16".
        decoder: "rnnt" or "ctc".
        sample_rate: Hz.
        att_context: (left, right) in encoder frames.
        pieces: the vocabulary's pieces by token id, as SentencePiece writes them (word starts carry U+2581).
        frame_samples: samples an encoder frame stands for (1280: 80 ms).
        chunk_frames: encoder frames a full step makes (look-ahead + 1).
        first_chunk_samples: samples the first step of a stream needs.
        chunk_samples: samples each later step needs (chunk_frames * frame_samples).
        languages: BCP-47 codes.
        word_lag_ms: by how much a word's first token comes after the word's start, and the end of its last token's
            frame after the word's end; typical of the model, taken off the words' times.
    """

    name: str
    device: str
    precision: str
    decoder: str
    sample_rate: int
    att_context: tuple[int, int]
    pieces: tuple[str, ...]
    frame_samples: int
    chunk_frames: int
    first_chunk_samples: int
    chunk_samples: int
    languages: tuple[str, ...] = ("en-US",)
    word_lag_ms: tuple[float, float] = (0.0, 0.0)

    @property
    def frame_ms(self) -> float:
        """Duration of one encoder frame in ms."""
        return 1000.0 * self.frame_samples / self.sample_rate

    @property
    def chunk_ms(self) -> float:
        """Audio that one full step takes, in ms."""
        return 1000.0 * self.chunk_samples / self.sample_rate

    @property
    def look_ahead_ms(self) -> float:
        """Audio after a frame that the model waits for, in ms."""
        return self.frame_ms * (self.chunk_frames - 1)


@dataclass(frozen=True, slots=True)
class StepRequest:
    """One stream's part of a step.

    Attributes:
        slot: row of pooled state leased to the stream.
        samples: new audio at the model's rate since the slot's previous step, float32 [n]. n is
            `first_chunk_samples` or `chunk_samples`, or anything from 0 to one less if `is_last`.
        is_first: the slot's state starts anew with this step, whatever was in it.
        is_last: no audio follows in this segment; what is left is flushed with its true length. The slot's next
            step must be a first one.
        boosts: with a first step, the phrases that this segment listens for; their place in the audio starts anew.
    """

    slot: int
    samples: Samples
    is_first: bool
    is_last: bool
    boosts: tuple[PhraseBoost, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made of one stream's part, in the order of the requests.

    Attributes:
        tokens: new token ids.
        token_frames: encoder frame each token was emitted at, counted from the segment's first frame.
        token_probs: probability of each token in [0, 1], under the decoder that emitted it.
        frames: encoder frames decoded in this step.
        broken: the row's numbers were not finite: nothing came of it, and the slot's next step must be a first one.
            The other rows are as they would be without it.
    """

    tokens: tuple[int, ...]
    token_frames: tuple[int, ...]
    token_probs: tuple[float, ...]
    frames: int
    broken: bool = False


class OutOfMemory(Exception):
    """The device had no memory for a step or a warm-up: smaller batches may fit.

    As after any failure of a step, the state of its slots is undefined.
    """


class StreamingModel(Protocol):
    """A model that steps many streams at once. One thread only may use it."""

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""
        ...

    @property
    def slots(self) -> int:
        """Rows of pooled state: streams that can be open at the same time."""
        ...

    def warm_up(self, max_batch: int, progress: Callable[[str], None]) -> None:
        """Runs every code path that live steps take, so that the first stream finds them warm.

        Raises:
            OutOfMemory: batches of this size do not fit; it may be called again with a smaller one.
        """
        ...

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        """Steps the given slots together, each at most once.

        A failure may leave the state of the given slots undefined, of no others; their next step must be a first one.

        Raises:
            OutOfMemory: the batch does not fit into memory.
        """
        ...


@dataclass(frozen=True, slots=True)
class Readings:
    """What a model measures of itself.

    Attributes:
        stages: seconds spent in each stage of all steps so far, by its name.
        memory_used: bytes of the device's memory that are taken, 0 where it has none of its own.
        memory_total: bytes of memory the device has.
    """

    stages: tuple[tuple[str, float], ...] = ()
    memory_used: int = 0
    memory_total: int = 0


@runtime_checkable
class Instrumented(Protocol):
    """A `StreamingModel` that also measures itself; asked by its own thread, a few times a second."""

    def readings(self) -> Readings:
        """As of now."""
        ...


@dataclass(frozen=True, slots=True)
class Word:
    """One word; times on the stream's clock in ms, confidence in [0, 1]."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Result:
    """One result of one stream.

    Attributes:
        stream: the engine's id of the stream, never reused.
        text: the whole current utterance.
        reason: None for an interim.
        utterance: index of the utterance in the stream.
        words: words of a final if they were asked for.
        confidence: mean over the utterance's words, 0 without words.
        audio_ms: audio the result takes into account, from the stream's start.
        tag: of the finalize request that a final answers, "" otherwise.
        made_unix_ms: wall clock when the result was made.
        stability: share of the words that no later result of the utterance will change; 1 for a final.
    """

    stream: int
    text: str
    reason: FinalReason | None
    utterance: int
    words: tuple[Word, ...]
    confidence: float
    audio_ms: int
    tag: str
    made_unix_ms: int
    stability: float = 1.0


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream is over and its slot is back. `error` is None after a flushed half-close or a cancel."""

    stream: int
    error: Exception | None


@dataclass(frozen=True, slots=True)
class Consumed:
    """The engine took this many bytes of a stream's audio out of its inbox.

    Attributes:
        stream: the engine's id of the stream.
        audio_bytes: since the last time it told.
        enough: bytes of the stream, from its first one, that the next chunk needs at least, as long as no finalize
            request comes in between; fewer are of no use to the engine. 0 if they are all welcome as they come.
        each: bytes of every chunk after it; then `enough` is exact. 0 if that is not known.
    """

    stream: int
    audio_bytes: int
    enough: int = 0
    each: int = 0


Event = Result | Ended | Consumed
"""What crosses from the engine to the event loop; a tick's events cross in one call."""


@dataclass(frozen=True, slots=True)
class Open:
    """Starts a stream on a slot. The event loop has already counted it against the permits."""

    stream: int
    config: StreamConfig


@dataclass(frozen=True, slots=True)
class Audio:
    """Audio bytes as they came."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finalize:
    """The client wants the final now."""

    stream: int
    tag: str


@dataclass(frozen=True, slots=True)
class HalfClose:
    """The client is done: flush, last final, end."""

    stream: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client is gone: give the slot back, send nothing more."""

    stream: int


Command = Open | Audio | Finalize | HalfClose | Cancel
"""What crosses from the event loop to the engine."""
TimedCommand = tuple[float, Command | None]
"""A command with the time at which it was given, monotonic seconds; None tells the engine to stop."""

"""The values of a stream that rooms share: its config, audio, words and results.

Everything here is frozen and plain (numbers, strings, tuples, numpy arrays) and may cross threads and processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""Mono audio, float32 in [-1, 1), shape [n]."""


class Encoding(Enum):
    """The encoding of audio bytes."""

    LINEAR16 = "linear16"
    MULAW = "mulaw"
    ALAW = "alaw"
    FLOAT32 = "float32"

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample of one channel."""
        return {"linear16": 2, "float32": 4}.get(self.value, 1)


class Coding(Enum):
    """What audio that is not raw comes as."""

    FLAC = "flac"
    OGG_OPUS = "ogg_opus"
    WEBM_OPUS = "webm_opus"
    AUTO = "auto"


class FinalReason(Enum):
    """Why a result is final."""

    ENDPOINT = "endpoint"
    END_OF_UTTERANCE = "end_of_utterance"
    FINALIZE = "finalize"
    END_OF_STREAM = "end_of_stream"
    ENDED_BY_SERVER = "ended_by_server"


@dataclass(frozen=True, slots=True)
class EndpointingConfig:
    """Rules by which utterances end without the client's asking.

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
"""Boost of phrases whose client names none. It raises the recall of rare words, even with a long list, and harms no
other words: docs/boosting.md."""


@dataclass(frozen=True, slots=True)
class PhraseBoost:
    """Phrases whose tokens are made more likely, and by how much.

    Attributes:
        phrases: as the client wrote them.
        boost: by how much the logarithm of a token's probability is raised where it goes on with one of them.
    """

    phrases: tuple[str, ...]
    boost: float = DEFAULT_BOOST


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """The validated config of one stream.

    Attributes:
        name: chosen by the client or made by the server; echoed, not unique.
        encoding: how to read the audio bytes.
        sample_rate: of the client's audio, Hz.
        interim_results: whether interims are sent.
        word_times: whether finals carry words.
        endpointing: None if only the client ends utterances.
        punctuation: whether punctuation and capitals that the model writes stay in the text.
        boosts: phrases that are boosted.
        language: one of `ModelInfo.languages` that the model is told is spoken; "" for the model's default.
        end_tokens: whether a token by which the model says that an utterance is over (`<EOU>`, `<EOB>`) makes a final.
        fill_gaps_after_ms: time without audio after which silence takes its place; 0 for never.
        model: name of the model that recognizes it, as it was set; "" for the first one.
        look_ahead_ms: of the model; None for its first one.
        coding: what the samples come compressed as, None for raw ones; encoding and rate are then those of the decoded
            samples, as far as they are known before there is audio.
    """

    name: str
    encoding: Encoding = Encoding.LINEAR16
    sample_rate: int = 16_000
    interim_results: bool = True
    word_times: bool = False
    endpointing: EndpointingConfig | None = None
    punctuation: bool = True
    boosts: tuple[PhraseBoost, ...] = ()
    language: str = ""
    end_tokens: bool = True
    fill_gaps_after_ms: int = 0
    model: str = ""
    look_ahead_ms: int | None = None
    coding: Coding | None = None

    @property
    def bytes_per_s(self) -> int:
        """Bytes of a second of one channel's samples."""
        return self.sample_rate * self.encoding.sample_bytes


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
        text: the whole current utterance.
        reason: None for an interim.
        utterance: index of the utterance in the stream.
        words: words of a final if the config asks for them.
        confidence: mean over the utterance's words, 0 without words.
        audio_ms: audio the result takes into account, from the stream's start.
        tag: that of the finalize request which a final answers, "" otherwise.
        made_unix_ms: unix time at which the result was made, ms.
        stability: share of the words that no later result of the utterance will change; 1 for a final.
        language: BCP-47 code of the language that the model last said it heard in the stream; before that the one that
            the config names; "" if neither is known.
    """

    text: str
    reason: FinalReason | None
    utterance: int
    words: tuple[Word, ...]
    confidence: float
    audio_ms: int
    tag: str
    made_unix_ms: int
    stability: float = 1.0
    language: str = ""

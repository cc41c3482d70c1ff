"""Results as Deepgram's clients read them: `Results`, `SpeechStarted`, `UtteranceEnd`, `Metadata`. Pure."""

from __future__ import annotations

import json
import string
import uuid
from dataclasses import dataclass, field
from typing import Any

from asr.v1 import asr_pb2

from ws_bridge.dialects.deepgram.query import Query

_MARKS = string.punctuation + "\u2026\u00bf\u00a1\u3002\uff0c\uff1f\uff01\u060c\u061f\u0964"
_MODELS = uuid.UUID("6f8b0a5c-4ea5-5f0e-9d0c-0f4b8a7d8c11")
"""What the UUIDs of models are made in."""
_LONGEST_UTTERANCE_MS = 30_000
"""After which the service ends an utterance though nobody has paused."""


@dataclass(frozen=True, slots=True)
class Model:
    """The model that is named in results."""

    name: str = ""
    version: str = ""
    decoder: str = ""

    @property
    def uuid(self) -> str:
        """Always the same for the same model and version."""
        return str(uuid.uuid5(_MODELS, f"{self.name} {self.version}"))

    @property
    def info(self) -> dict[str, str]:
        """What is said of it."""
        return {"name": self.name, "version": self.version, "arch": self.decoder}


@dataclass(slots=True)
class _Channel:
    """Where one channel's results are, in ms of its audio.

    Attributes:
        final_ms: audio of the finals so far.
        heard_ms: audio of the results so far.
        speaks: whether an utterance has begun.
        word_end_ms: end of the last final's last word, as long as nothing has told of the silence after it.
    """

    final_ms: int = 0
    heard_ms: int = 0
    speaks: bool = False
    word_end_ms: int | None = None


@dataclass(slots=True)
class ResultWriter:
    """Writes one stream's results.

    Attributes:
        query: what its client asks for.
        request_id: of its request.
        model: that recognizes it.
        channels: of its audio.
    """

    query: Query
    request_id: str
    model: Model
    channels: int = 1
    _states: dict[int, _Channel] = field(default_factory=dict)

    def take(self, response: asr_pb2.RecognizeResponse) -> list[str]:
        """Takes every result; makes the messages of a final, and of what an interim tells beside its text."""
        result = response.result
        at = self._states.setdefault(result.channel, _Channel())
        index, query = [result.channel, self.channels], self.query
        messages: list[dict[str, Any]] = []
        if result.text and not at.speaks:
            at.speaks = True
            at.word_end_ms = None
            if query.vad_events:
                # Of the chunk that brought the first word.
                timestamp = _seconds(at.heard_ms)
                messages.append({"type": "SpeechStarted", "channel": index, "timestamp": timestamp})
        at.heard_ms = response.audio_processed_ms
        if result.is_final:
            messages.append(self._results(response, at))
            at.final_ms, at.speaks = response.audio_processed_ms, False
            if result.words:
                at.word_end_ms = result.words[-1].end_ms
        if (
            query.utterance_end_ms is not None
            and at.word_end_ms is not None
            and not at.speaks
            and at.heard_ms - at.word_end_ms >= query.utterance_end_ms
        ):
            last_word_end = _seconds(at.word_end_ms)
            messages.append({"type": "UtteranceEnd", "channel": index, "last_word_end": last_word_end})
            at.word_end_ms = None
        return [dump(message) for message in messages]

    def interim(self, response: asr_pb2.RecognizeResponse) -> list[str]:
        """Makes the message of an interim that has been taken, and after which no final of its channel has been."""
        result = response.result
        if not (self.query.interims and result.text):
            return []
        return [dump(self._results(response, self._states[result.channel]))]

    def metadata(self, sha256: str, created: str) -> str:
        """What is said when the stream is over; `sha256` is that of the audio, `created` when the request came."""
        heard_ms = max((at.heard_ms for at in self._states.values()), default=0)
        return dump(
            {
                "type": "Metadata",
                "transaction_key": "deprecated",
                "request_id": self.request_id,
                "sha256": sha256,
                "created": created,
                "duration": _seconds(heard_ms),
                "channels": self.channels,
                "models": [self.model.uuid],
                "model_info": {self.model.uuid: self.model.info},
            }
        )

    def _results(self, response: asr_pb2.RecognizeResponse, at: _Channel) -> dict[str, Any]:
        result = response.result
        message: dict[str, Any] = {
            "type": "Results",
            "channel_index": [result.channel, self.channels],
            "duration": _seconds(response.audio_processed_ms - at.final_ms),
            "start": _seconds(at.final_ms),
            "is_final": result.is_final,
            "speech_final": result.is_final and self._ends_speech(response, at),
            "channel": {"alternatives": [alternative(result, self.query)]},
            "metadata": {
                "request_id": self.request_id,
                "model_info": self.model.info,
                "model_uuid": self.model.uuid,
            },
        }
        if result.is_final:
            message["from_finalize"] = result.final_reason == asr_pb2.FINAL_REASON_FINALIZE
        return message

    def _ends_speech(self, response: asr_pb2.RecognizeResponse, at: _Channel) -> bool:
        """Whether a final comes of a pause, and not of its length, nor of one that the client did not ask about."""
        if response.result.final_reason != asr_pb2.FINAL_REASON_ENDPOINT:
            return True
        if self.query.silence_ms is None:
            return False
        words, heard_ms = response.result.words, response.audio_processed_ms
        if not words or heard_ms - words[0].start_ms < _LONGEST_UTTERANCE_MS:
            return True
        return heard_ms - words[-1].end_ms >= self.query.silence_ms


def alternative(result: asr_pb2.RecognitionResult, query: Query) -> dict[str, Any]:
    """A result's text and words. Words come with finals only, since their times are known then."""
    told: dict[str, Any] = {
        "transcript": result.text,
        "confidence": round(result.confidence, 4),
        "words": [word(one, query) for one in result.words],
    }
    if query.tells_language and result.language_code:
        told["languages"] = [result.language_code]
    return told


def word(one: asr_pb2.WordInfo, query: Query) -> dict[str, Any]:
    """A word as it was spoken, and as it is written where the client asks for punctuation."""
    told: dict[str, Any] = {
        "word": one.word.strip(_MARKS).lower() or one.word,
        "start": _seconds(one.start_ms),
        "end": _seconds(one.end_ms),
        "confidence": round(one.confidence, 4),
    }
    if query.punctuate:
        told["punctuated_word"] = one.word
    return told


def dump(fields: dict[str, Any]) -> str:
    """A message's text."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _seconds(ms: int) -> float:
    return ms / 1000

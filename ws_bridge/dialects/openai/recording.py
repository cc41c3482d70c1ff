"""OpenAI's recordings, `POST /v1/audio/transcriptions`: a form with the file and what is asked for. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from asr.v1 import asr_pb2

from ws_bridge.dialect import HttpAnswer
from ws_bridge.dialects.openai.captions import Caption, captions, srt, vtt
from ws_bridge.dialects.openai.errors import error_fields
from ws_bridge.dialects.openai.session import (
    invalid,
    read_keywords,
    read_language,
    read_languages,
    read_model,
    service_model,
)
from ws_bridge.dialects.openai.turns import Item, stable_text
from ws_bridge.fields import LOOK_AHEAD_LIMITS, show
from ws_bridge.file_start import AudioFormat
from ws_bridge.messages import Init
from ws_bridge.status import Failure

_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_GRANULARITIES = ("word", "segment")


class OpenAIRecording:
    """One recording.

    Args:
        sid: of its stream.
        key: API key.
    """

    is_form = True
    separate_channels = False
    is_streamed: bool
    raw: AudioFormat | None

    def __init__(self, sid: str, key: str) -> None:
        self.sid = sid
        self.key = key
        self.is_streamed = False
        self.raw = None
        self._format = "json"
        self._granularities: Sequence[str] = ("segment",)
        self._model = self._language = ""
        self._keywords: tuple[str, ...] = ()
        self._look_ahead_ms: int | None = None
        self._item = Item(sid)
        self._words: list[asr_pb2.WordInfo] = []
        self._heard = ""
        self._heard_ms = 0

    def learn(self, info: asr_pb2.GetServiceInfoResponse) -> None:
        """Needs nothing of it."""

    def read_form(self, fields: Mapping[str, Sequence[str]]) -> None:
        """Reads what is asked for. Parts that are not known, and hints, are left alone."""
        self._model = read_model(_last(fields, "model"), "model")
        if languages := _all(fields, "languages"):
            self._language = read_languages(languages, "languages")
        if language := _last(fields, "language"):
            self._language = read_language(language, "language")
        self._keywords = read_keywords(_all(fields, "keywords"), "keywords")
        self._format = _last(fields, "response_format") or "json"
        if self._format not in _FORMATS:
            raise invalid(
                "response_format", f"is {show(self._format)}: it should be one of {', '.join(_FORMATS)}"
            )
        if asked := _all(fields, "timestamp_granularities"):
            for one in asked:
                if one not in _GRANULARITIES:
                    raise invalid("timestamp_granularities", f"has {show(one)}: it should be word or segment")
            self._granularities = asked
        streamed = (_last(fields, "stream") or "false").lower()
        if streamed not in ("true", "false"):
            raise invalid("stream", f"is {show(streamed)}: it should be true or false")
        self.is_streamed = streamed == "true"
        if self.is_streamed and self._format not in ("json", "text"):
            raise invalid("stream", f"cannot be true for {self._format}: only for json and text")
        self._look_ahead_ms = _look_ahead_ms(_last(fields, "look_ahead_ms"))

    def init(self, found: AudioFormat) -> Init:
        """How a recording of this format is recognized: as one utterance."""
        return Init(
            sid=self.sid,
            sr=found.sr,
            enc=found.enc,
            interim=self.is_streamed,
            words=True,
            phrases=self._keywords,
            language=self._language,
            model=service_model(self._model),
            look_ahead_ms=self._look_ahead_ms,
            key=self.key,
        )

    def take(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Keeps a final, and makes the event of what is new."""
        result = response.result
        self._heard_ms = max(self._heard_ms, response.audio_processed_ms)
        self._heard = result.language_code or self._heard
        more = ""
        if result.is_final:
            self._item.parts.append(result.text)
            self._words += result.words
        else:
            more = stable_text(result.text, result.stability)
        if not self.is_streamed:
            return ()
        new = self._item.delta(self._item.text(more))
        return (_event({"type": "transcript.text.delta", "delta": new}),) if new else ()

    def answer(self, sha256: str) -> HttpAnswer:
        """Makes the response in the form that is asked for, or the last event."""
        text, usage = self._item.text(), {"type": "duration", "seconds": self._heard_ms / 1000}
        plain: dict[str, Any] = {"text": text}
        if self._heard:
            plain["languages"] = [{"code": self._heard}]
        if self.is_streamed:
            return HttpAnswer(200, _event({"type": "transcript.text.done", **plain, "usage": usage}))
        match self._format:
            case "text":
                return HttpAnswer(200, text + "\n", content_type="text/plain; charset=utf-8")
            case "srt":
                return HttpAnswer(200, srt(captions(self._words)), content_type="text/plain; charset=utf-8")
            case "vtt":
                return HttpAnswer(200, vtt(captions(self._words)), content_type="text/vtt; charset=utf-8")
            case "verbose_json":
                return HttpAnswer(200, json.dumps(self._verbose(usage), ensure_ascii=False))
            case _:
                return HttpAnswer(200, json.dumps(plain | {"usage": usage}, ensure_ascii=False))

    def failed(self, failure: Failure) -> Sequence[str]:
        """Makes the event of a failure."""
        return (_event({"type": "error", "error": error_fields(failure, None)}),)

    def _verbose(self, usage: dict[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {
            "task": "transcribe",
            "language": self._heard or self._language,
            "duration": self._heard_ms / 1000,
            "text": self._item.text(),
            "usage": usage,
        }
        if "word" in self._granularities:
            told["words"] = [
                {"word": word.word, "start": word.start_ms / 1000, "end": word.end_ms / 1000}
                for word in self._words
            ]
        if "segment" in self._granularities:
            told["segments"] = [_segment(at, one) for at, one in enumerate(captions(self._words))]
        return told


def _segment(at: int, one: Caption) -> dict[str, Any]:
    """A segment; what Whisper would tell of its decoding there is nothing of here."""
    return {
        "id": at,
        "seek": 0,
        "start": one.start_ms / 1000,
        "end": one.end_ms / 1000,
        "text": one.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": None,
        "compression_ratio": None,
        "no_speech_prob": None,
    }


def _event(fields: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(fields, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _all(fields: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """Values of a list; clients write brackets behind its name, or do not."""
    return [*fields.get(name, ()), *fields.get(f"{name}[]", ())]


def _last(fields: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = fields.get(name)
    return values[-1] if values else None


def _look_ahead_ms(text: str | None) -> int | None:
    if not text:
        return None
    low, high = int(LOOK_AHEAD_LIMITS.min), int(LOOK_AHEAD_LIMITS.max)
    if text.isascii() and text.isdecimal() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise invalid("look_ahead_ms", f"is {show(text)}: it should be a whole number from {low} to {high}")

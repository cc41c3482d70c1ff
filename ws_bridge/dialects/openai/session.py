"""A realtime session's settings, in the two shapes that OpenAI's clients send, and the stream that they ask for. Pure.

    {"type":"session.update","session":{"type":"transcription","audio":{"input":{"format":{...},"transcription":{...},
     "turn_detection":{...}}}}}                                                     as clients send today
    {"type":"transcription_session.update","session":{"input_audio_format":"pcm16","input_audio_transcription":{...},
     "turn_detection":{...}}}                                                       as they did at first

What an update leaves out stays as it was. What would change the words and cannot be done is refused; hints that a model
has no use for (`prompt`, `noise_reduction`, `threshold`, ...) are left alone, and left out of what clients are told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ws_bridge.fields import (
    ENDPOINT_LIMITS,
    LANGUAGE_LIMITS,
    LOOK_AHEAD_LIMITS,
    MODEL_LIMITS,
    PHRASE_LIMITS,
    RATE_LIMITS,
    sendable,
    show,
)
from ws_bridge.messages import Init
from ws_bridge.status import Failure, Refused

PCM_RATE = 24_000
G711_RATE = 8_000
DEFAULT_SILENCE_MS = 500
"""What OpenAI takes for the end of a turn if nothing is asked for."""

_SEMANTIC_MS = {"low": 8_000, "medium": 4_000, "auto": 4_000, "high": 2_000}
"""How long `semantic_vad` waits where the model does not say that the turn is over."""
_FORMATS = {"audio/pcm": "linear16", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
_OLD_FORMATS = {"pcm16": "linear16", "g711_ulaw": "mulaw", "g711_alaw": "alaw"}
_OPENAIS_MODELS = re.compile(r"(gpt|whisper|o[0-9]|chatgpt)\b", re.IGNORECASE)
_OLD_NAMES = {
    "input_audio_format": "format",
    "input_audio_transcription": "transcription",
    "turn_detection": "turn_detection",
    "input_audio_noise_reduction": "noise_reduction",
}


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What a session's client asks for.

    Attributes:
        enc: the encoding of its audio as in `Init`.
        sr: samples per second.
        model: as the client named it.
        language: BCP-47 code; "" for the service's default.
        keywords: phrases to listen for.
        look_ahead_ms: audio after a word that the model waits for; None for its default.
        turns: "server_vad", "semantic_vad", or "" where the client commits each turn.
        silence_ms: pause that ends a turn.
        eagerness: of `semantic_vad`.
    """

    enc: str = "linear16"
    sr: int = PCM_RATE
    model: str = ""
    language: str = ""
    keywords: tuple[str, ...] = ()
    look_ahead_ms: int | None = None
    turns: str = "server_vad"
    silence_ms: int = DEFAULT_SILENCE_MS
    eagerness: str = "auto"

    def init(self, sid: str, key: str) -> Init:
        """How the session's stream is recognized."""
        silence_ms = _SEMANTIC_MS[self.eagerness] if self.turns == "semantic_vad" else self.silence_ms
        return Init(
            sid=sid,
            sr=self.sr,
            enc=self.enc,
            words=False,
            endpoint_ms=max(int(ENDPOINT_LIMITS.min), silence_ms) if self.turns else None,
            end_tokens=bool(self.turns),
            phrases=self.keywords,
            language=self.language,
            model=service_model(self.model),
            look_ahead_ms=self.look_ahead_ms,
            key=key,
        )

    def told(self, sid: str) -> dict[str, Any]:
        """The session as clients are told today."""
        kind = {name: kind for kind, name in _FORMATS.items()}[self.enc]
        audio_format: dict[str, Any] = {"type": kind}
        if kind == "audio/pcm":
            audio_format["rate"] = self.sr
        heard = {"format": audio_format, "transcription": self._transcription(), "noise_reduction": None}
        return {
            "object": "realtime.transcription_session",
            "type": "transcription",
            "id": f"sess_{sid}",
            "audio": {"input": heard | {"turn_detection": self._turn_detection()}},
            "include": None,
        }

    def told_at_first(self, sid: str) -> dict[str, Any]:
        """The session as clients were told at first."""
        return {
            "object": "realtime.transcription_session",
            "id": f"sess_{sid}",
            "modalities": ["text"],
            "input_audio_format": {name: kind for kind, name in _OLD_FORMATS.items()}[self.enc],
            "input_audio_transcription": self._transcription(),
            "turn_detection": self._turn_detection(),
            "input_audio_noise_reduction": None,
            "include": None,
        }

    def _transcription(self) -> dict[str, Any]:
        told: dict[str, Any] = {"model": self.model or None, "language": self.language or None}
        if self.keywords:
            told["keywords"] = list(self.keywords)
        if self.look_ahead_ms is not None:
            told["look_ahead_ms"] = self.look_ahead_ms
        return told

    def _turn_detection(self) -> dict[str, Any] | None:
        if self.turns == "semantic_vad":
            return {"type": self.turns, "eagerness": self.eagerness}
        if not self.turns:
            return None
        return {"type": self.turns, "silence_duration_ms": self.silence_ms}


def service_model(name: str) -> str:
    """The service's model that a name means: OpenAI's names stand for the default, "" here."""
    return "" if _OPENAIS_MODELS.match(name) else name


def read_update(session: object, before: SessionSettings) -> SessionSettings:
    """Reads the `session` of an update in either shape.

    Raises:
        Refused: the first field that cannot be served; its settings stay as they were.
    """
    fields = _object(session, "session")
    if fields.get("type", "transcription") != "transcription":
        raise invalid("session.type", f"is {show(fields['type'])}: only transcription is served here")
    if "audio" in fields:
        where = "session.audio.input"
        given = _object(_object(fields["audio"], "session.audio").get("input", {}), where)
        names: Mapping[str, str] = {name: f"{where}.{name}" for name in _OLD_NAMES.values()}
    else:
        given = {name: fields[old] for old, name in _OLD_NAMES.items() if old in fields}
        names = {name: f"session.{old}" for old, name in _OLD_NAMES.items()}
    settings = before
    if given.get("format") is not None:
        settings = _with_format(given["format"], names["format"], settings)
    if "transcription" in given:
        settings = _with_transcription(given["transcription"], names["transcription"], settings)
    if "turn_detection" in given:
        settings = _with_turns(given["turn_detection"], names["turn_detection"], settings)
    return settings


def _with_format(value: object, name: str, before: SessionSettings) -> SessionSettings:
    kind: Any = value
    kinds, rate, kind_name = _OLD_FORMATS, None, name
    if not isinstance(value, str):
        fields = _object(value, name)
        kind, kinds, rate = fields.get("type", "audio/pcm"), _FORMATS, fields.get("rate")
        kind_name = f"{name}.type"
    if not isinstance(kind, str) or kind not in kinds:
        raise invalid(kind_name, f"is {show(kind)}: it should be one of {', '.join(kinds)}")
    enc = kinds[kind]
    usual = PCM_RATE if enc == "linear16" else G711_RATE
    low, high = int(RATE_LIMITS.min), int(RATE_LIMITS.max)
    return replace(before, enc=enc, sr=_whole(rate, f"{name}.rate", usual, low, high))


def _with_transcription(value: object, name: str, before: SessionSettings) -> SessionSettings:
    if value is None:
        raise invalid(name, "is null: a transcription session transcribes")
    fields = _object(value, name)
    settings = before
    if "model" in fields:
        settings = replace(settings, model=read_model(fields["model"], f"{name}.model"))
    if "languages" in fields:
        settings = replace(settings, language=read_languages(fields["languages"], f"{name}.languages"))
    if "language" in fields:
        settings = replace(settings, language=read_language(fields["language"], f"{name}.language"))
    if "keywords" in fields:
        settings = replace(settings, keywords=read_keywords(fields["keywords"], f"{name}.keywords"))
    if fields.get("look_ahead_ms") is not None:
        low, high = int(LOOK_AHEAD_LIMITS.min), int(LOOK_AHEAD_LIMITS.max)
        look_ahead_ms = _whole(fields["look_ahead_ms"], f"{name}.look_ahead_ms", 0, low, high)
        settings = replace(settings, look_ahead_ms=look_ahead_ms)
    return settings


def _with_turns(value: object, name: str, before: SessionSettings) -> SessionSettings:
    if value is None:
        return replace(before, turns="")
    fields = _object(value, name)
    kind = fields.get("type") or before.turns or "server_vad"
    if kind not in ("server_vad", "semantic_vad"):
        raise invalid(f"{name}.type", f"is {show(kind)}: it should be server_vad, semantic_vad, or null")
    eagerness = fields.get("eagerness") or before.eagerness
    if not isinstance(eagerness, str) or eagerness not in _SEMANTIC_MS:
        raise invalid(
            f"{name}.eagerness", f"is {show(eagerness)}: it should be one of {', '.join(_SEMANTIC_MS)}"
        )
    silence_ms = _whole(
        fields.get("silence_duration_ms"),
        f"{name}.silence_duration_ms",
        before.silence_ms,
        0,
        int(ENDPOINT_LIMITS.max),
    )
    return replace(before, turns=kind, silence_ms=silence_ms, eagerness=eagerness)


def read_model(value: object, name: str) -> str:
    """A model's name, OpenAI's or the service's; "" for none."""
    if value is None:
        return ""
    if isinstance(value, str) and len(value) <= MODEL_LIMITS.max_length and sendable(value):
        return value
    raise invalid(name, f"is {show(value)}: it should be a model's name")


def read_language(value: object, name: str) -> str:
    """A language's code; "" for the service's default."""
    if value is None:
        return ""
    if isinstance(value, str) and len(value) <= LANGUAGE_LIMITS.max_length and sendable(value):
        return value
    raise invalid(name, f"is {show(value)}: it should be a language's code, such as en")


def read_languages(value: object, name: str) -> str:
    """The languages that may be spoken: where they are several, the model finds out which it is."""
    if not isinstance(value, list):
        raise invalid(name, f"is {show(value)}: it should be a list of languages' codes")
    codes = [read_language(code, f"{name}[{at}]") for at, code in enumerate(value)]
    return codes[0] if len(codes) == 1 else "multi" if codes else ""


def read_keywords(value: object, name: str) -> tuple[str, ...]:
    """Phrases to listen for, no more than the contract takes; which of them it can, the service says.

    The session keeps them and repeats them in every `session.updated`.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise invalid(name, f"is {show(value)}: it should be a list of words and phrases")
    if len(value) > PHRASE_LIMITS.max_items:
        raise invalid(name, f"has {len(value)} phrases: there should be at most {PHRASE_LIMITS.max_items}")
    chars = 0
    for at, phrase in enumerate(value):
        if not isinstance(phrase, str) or not sendable(phrase):
            raise invalid(f"{name}[{at}]", f"is {show(phrase)}: it should be words")
        chars += len(phrase)
    if chars > PHRASE_LIMITS.max_total_length:
        most = PHRASE_LIMITS.max_total_length
        raise invalid(name, f"has {chars} characters: there should be at most {most} in all")
    return tuple(value)


def _object(value: object, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise invalid(name, f"is {show(value)}: it should be an object")


def _whole(value: Any, name: str, default: int, low: int, high: int) -> int:
    if value is None:
        return default
    # bool is an int to Python; and JSON does not tell 500.0 from 500.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and low <= value <= high and value == int(value):
        return int(value)
    raise invalid(name, f"is {show(value)}: it should be a whole number from {low} to {high}")


def invalid(name: str, problem: str) -> Refused:
    """A field's value that cannot be served."""
    return Refused(Failure("invalid_argument", f"{name} {problem}", field=name))

"""The query of Deepgram's `/v1/listen`: what a client asks for, live or with a file. Pure.

Parameters that are not known are left alone, and so are those that only label or bill. What would change the words, or
what comes beside them, and cannot be done here is refused: nobody should take a transcript for a redacted one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from ws_bridge.fields import (
    ENDPOINT_LIMITS,
    LANGUAGE_LIMITS,
    LOOK_AHEAD_LIMITS,
    MAX_KEY,
    MODEL_LIMITS,
    RATE_LIMITS,
    sendable,
)
from ws_bridge.handshake import Handshake
from ws_bridge.messages import Init
from ws_bridge.status import Failure, Refused, Vocabulary

WORDS = Vocabulary(
    {
        "sample_rate_hertz": "sample_rate",
        "language_code": "language",
        "phrase_boosts": "keyterm",
        "phrases": "keyterm",
        "boost": "keywords",
        "trailing_silence_ms": "endpointing",
        "audio_channel_count": "channels",
    },
    "send it as header 'Authorization: Token KEY', or as subprotocol after 'token'",
    "send audio, or KeepAlive while there is none",
    "no audio within",
)
"""What Deepgram calls things."""

KEY_SCHEMES = ("token", "bearer")
"""What stands before a key, in a header or as a subprotocol."""

DEFAULT_SILENCE_MS = 10
"""What Deepgram takes for a pause if nothing is asked for."""

_DEEPGRAMS_MODELS = re.compile(
    r"(2-)?(nova|flux|enhanced|base|whisper|general|meeting|phonecall|voicemail|finance|conversationalai|video|medical|"
    r"drivethru|automotive)\b",
    re.IGNORECASE,
)
_G711_RATE = 8_000
_MOST_CHANNELS = 2
_UTTERANCE_END_MS = (100, 60_000)
_BOOSTS = (0.0, 10.0)

_NEEDED_FALSE = {
    "diarize": "speakers are not told apart here",
    "numerals": "numbers stay as the model writes them",
    "profanity_filter": "words stay as they were spoken",
    "dictation": "spoken marks stay words",
    "measurements": "units stay as the model writes them",
    "detect_entities": "no entities are looked for here",
    "paragraphs": "no paragraphs are made here",
    "summarize": "there are no summaries here",
    "sentiment": "no sentiment is looked for here",
    "topics": "no topics are looked for here",
    "intents": "no intents are looked for here",
}
"""Features that are not there, and why; false, which is their default, is what every client gets."""

_NEEDED_ABSENT = {
    "redact": "words stay as they were spoken",
    "replace": "words stay as they were spoken",
    "search": "no search is made here",
    "callback": "results are sent to the client itself",
    "diarize_model": "speakers are not told apart here",
    "translate": "words stay in the language that they were spoken in",
}

_ENCODINGS = {
    "linear16": "linear16",
    "linear32": "float32",
    "mulaw": "mulaw",
    "alaw": "alaw",
    "flac": "flac",
    "opus": "ogg_opus",
    "ogg-opus": "ogg_opus",
}
"""As in `Init`; Opus without a container comes as it pleases, and is refused by the service."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a client asks for.

    Attributes:
        enc: the encoding as in `Init`; "" where the audio is a file that says so itself.
        sr: samples per second of what has an encoding, as in `Init`.
        channels: of the same.
        multichannel: whether each channel is to be recognized by itself.
        interims: whether results that are not final are wanted.
        silence_ms: pause that ends an utterance; None where only the client ends one.
        utterance_end_ms: pause after the last word that is told of; None if none is.
        vad_events: whether the start of speech is told of.
        punctuate: whether punctuation and capitals stay.
        groups: phrases to listen for, and how strongly.
        language: BCP-47 code, "multi", or "" for the service's default.
        model: name of one of the service's models; "" for its default.
        look_ahead_ms: audio after a word that the model waits for; None for its default.
        tells_language: whether the language that was heard is to be told.
        utterances: whether a file's utterances are to be listed.
        split_ms: pause that ends a file's utterance.
        key: API key.
    """

    enc: str = ""
    sr: int = 16_000
    channels: int = 1
    multichannel: bool = False
    interims: bool = False
    silence_ms: int | None = DEFAULT_SILENCE_MS
    utterance_end_ms: int | None = None
    vad_events: bool = False
    punctuate: bool = False
    groups: tuple[tuple[tuple[str, ...], float | None], ...] = ()
    language: str = ""
    model: str = ""
    look_ahead_ms: int | None = None
    tells_language: bool = False
    utterances: bool = False
    split_ms: int = 800
    key: str = field(default="", repr=False)

    def init(self, sid: str, enc: str, sr: int, channels: int, *, live: bool) -> Init:
        """How a stream of such audio is recognized for this client."""
        least = int(ENDPOINT_LIMITS.min)
        ends = live and self.silence_ms is not None
        return Init(
            sid=sid,
            sr=sr,
            enc=enc,
            channels=channels,
            # The start of speech and the time since its end are told by interims.
            interim=live and (self.interims or self.vad_events or self.utterance_end_ms is not None),
            words=True,
            endpoint_ms=max(least, self.silence_ms or 0) if ends else self._long_pause_ms(live),
            end_tokens=ends,
            groups=self.groups,
            punctuation=self.punctuate,
            language=self.language,
            model=self.model,
            look_ahead_ms=self.look_ahead_ms,
            key=self.key,
        )

    def _long_pause_ms(self, live: bool) -> int | None:
        """A pause that makes a final where none ends an utterance, so that a stream has finals at all; words stay."""
        return max(int(ENDPOINT_LIMITS.min), self.utterance_end_ms or 1_000) if live else None


def read_query(handshake: Handshake) -> Query:
    """Reads a request's parameters.

    Raises:
        Refused: the first that cannot be served.
    """
    for name, why in _NEEDED_FALSE.items():
        asked = (handshake.last(name) or "").lower()
        if asked not in ("", "false"):
            raise _invalid(name, f"cannot be served: {why}; leave it out, or set it to false")
    for name, why in _NEEDED_ABSENT.items():
        if any(handshake.query.get(name, ())):
            raise _invalid(name, f"cannot be served: {why}; leave it out")
    enc = _encoding(handshake)
    multichannel = _flag(handshake, "multichannel")
    detects = _flag(handshake, "detect_language")
    utterance_end_ms = _whole(handshake, "utterance_end_ms", None, *_UTTERANCE_END_MS, "ms of silence")
    interims = _flag(handshake, "interim_results")
    if utterance_end_ms is not None and not interims:
        raise _invalid("utterance_end_ms", "needs interim_results=true, which are what it is found by")
    language = _language(handshake)
    low, high = int(LOOK_AHEAD_LIMITS.min), int(LOOK_AHEAD_LIMITS.max)
    return Query(
        enc=enc,
        sr=_rate(handshake, enc),
        channels=_channels(handshake, multichannel) if enc else 1,
        multichannel=multichannel,
        interims=interims,
        silence_ms=_endpointing(handshake),
        utterance_end_ms=utterance_end_ms,
        vad_events=_flag(handshake, "vad_events"),
        punctuate=_flag(handshake, "punctuate") or _flag(handshake, "smart_format"),
        groups=_phrases(handshake),
        language="auto" if detects else language,
        model=_model(handshake),
        look_ahead_ms=_whole(handshake, "look_ahead_ms", None, low, high, "ms of audio"),
        tells_language=detects or language == "multi",
        utterances=_flag(handshake, "utterances"),
        split_ms=_split_ms(handshake),
        key=read_key(handshake),
    )


def read_key(handshake: Handshake) -> str:
    """The client's API key, "" if it sends none: in a header, or as the subprotocol that follows `token`.

    Raises:
        Refused: it is no key.
    """
    key = handshake.authorization(*KEY_SCHEMES)
    offers = handshake.subprotocols
    if not key and len(offers) > 1 and offers[0].lower() in KEY_SCHEMES:
        key = offers[1]
    if len(key) > MAX_KEY or not (key.isascii() and key.isprintable()):
        raise Refused(Failure("unauthenticated", f"the API key is not known here; {WORDS.send_a_key}"))
    return key


def _encoding(handshake: Handshake) -> str:
    asked = (handshake.last("encoding") or "").lower()
    if asked and asked not in _ENCODINGS:
        served = ", ".join(_ENCODINGS)
        raise _invalid(
            "encoding",
            f"is {_show(asked)}: it should be one of {served}, or left out for a file that says it",
        )
    return _ENCODINGS[asked] if asked else ""


def _rate(handshake: Handshake, enc: str) -> int:
    low, high = int(RATE_LIMITS.min), int(RATE_LIMITS.max)
    if not enc:
        return 16_000
    default = {"linear16": None, "float32": None, "mulaw": _G711_RATE, "alaw": _G711_RATE}.get(enc, 0)
    rate = _whole(handshake, "sample_rate", default, low, high, "samples per second")
    if rate is None:
        raise _invalid("sample_rate", "is missing: raw audio needs it, such as sample_rate=16000")
    return rate


def _channels(handshake: Handshake, multichannel: bool) -> int:
    channels = _whole(handshake, "channels", 1, 1, _MOST_CHANNELS, "channels of the audio")
    assert channels is not None
    if channels > 1 and not multichannel:
        raise _invalid("channels", f"is {channels}: set multichannel=true, since channels are not mixed here")
    return channels


def _endpointing(handshake: Handshake) -> int | None:
    asked = (handshake.last("endpointing") or "").lower()
    if asked in ("", "true"):
        return DEFAULT_SILENCE_MS
    if asked in ("false", "0"):
        return None
    return _whole(handshake, "endpointing", None, 0, int(ENDPOINT_LIMITS.max), "ms of silence, or false")


def _split_ms(handshake: Handshake) -> int:
    text = handshake.last("utt_split") or "0.8"
    seconds = _number(text)
    low, high = ENDPOINT_LIMITS.min / 1000, ENDPOINT_LIMITS.max / 1000
    if seconds is None or not low <= seconds <= high:
        raise _invalid("utt_split", f"is {_show(text)}: it should be {low:g} to {high:g} (seconds)")
    return round(1000 * seconds)


def _language(handshake: Handshake) -> str:
    code = handshake.last("language") or ""
    if len(code) > LANGUAGE_LIMITS.max_length or not sendable(code):
        raise _invalid("language", f"is {_show(code)}: it should be a BCP-47 code, such as en-US, or multi")
    return code


def _model(handshake: Handshake) -> str:
    """The service's model that is asked for; Deepgram's names stand for its default."""
    name = handshake.last("model") or ""
    if len(name) > MODEL_LIMITS.max_length or not sendable(name):
        raise _invalid("model", f"is {_show(name)}: it should be a model's name")
    return "" if _DEEPGRAMS_MODELS.match(name) else name


def _phrases(handshake: Handshake) -> tuple[tuple[tuple[str, ...], float | None], ...]:
    """Phrases by how strongly they are to be listened for; the service says which it can."""
    groups: dict[float | None, list[str]] = {}
    for phrase in handshake.query.get("keyterm", ()):
        if phrase.strip():
            groups.setdefault(None, []).append(phrase)
    low, high = _BOOSTS
    for text in handshake.query.get("keywords", ()):
        word, _, strength = text.partition(":")
        boost = _number(strength) if strength else None
        if not word.strip() and not strength:
            continue
        if not word.strip() or (strength and (boost is None or not low <= boost <= high)):
            raise _invalid(
                "keywords",
                f"has {_show(text)}: it should be WORD or WORD:BOOST, with a boost from {low:g} to {high:g}",
            )
        groups.setdefault(boost, []).append(word)
    for phrases in groups.values():
        for phrase in phrases:
            if not sendable(phrase):
                raise _invalid("keyterm", f"has {_show(phrase)}: it should be words")
    return tuple((tuple(phrases), boost) for boost, phrases in groups.items())


def _flag(handshake: Handshake, name: str) -> bool:
    asked = (handshake.last(name) or "").lower()
    if asked in ("", "true", "false"):
        return asked == "true"
    raise _invalid(name, f"is {_show(asked)}: it should be true or false")


def _whole(
    handshake: Handshake, name: str, default: int | None, low: int, high: int, what: str
) -> int | None:
    text = handshake.last(name) or ""
    if not text:
        return default
    value = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1
    if low <= value <= high:
        return value
    raise _invalid(name, f"is {_show(text)}: it should be a whole number from {low} to {high} ({what})")


def _number(text: str) -> float | None:
    if not re.fullmatch(r"[+-]?([0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9})", text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _show(value: str) -> str:
    """Shows a value, cut to what fits into an error message; ASCII, so that a header may hold it."""
    return ascii(value if len(value) <= 60 else value[:57] + "...")


def _invalid(name: str, problem: str) -> Refused:
    return Refused(Failure("invalid_argument", f"{name} {problem}", field=name))

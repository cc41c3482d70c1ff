"""Reads the fields of the bridge's own JSON messages by the limits of the contract, and names those that it refuses."""

from __future__ import annotations

import json
import reprlib
from typing import Any

from asr.v1 import asr_pb2
from google.protobuf.message import Message as Proto

from ws_bridge.messages import COMPRESSED, ENCODINGS, Init
from ws_bridge.status import Failure, Refused


def contract_limits(message: type[Proto], field: str) -> asr_pb2.Limits:
    """What the contract lets a field of one of its messages hold; the service refuses what goes beyond."""
    limits: asr_pb2.Limits = message.DESCRIPTOR.fields_by_name[field].GetOptions().Extensions[asr_pb2.limits]
    return limits


RATE_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "sample_rate_hertz")
ENDPOINT_LIMITS = contract_limits(asr_pb2.Endpointing, "trailing_silence_ms")
GAP_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "fill_gaps_after_ms")
SID_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "stream_id")
LANGUAGE_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "language_code")
MODEL_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "model")
LOOK_AHEAD_LIMITS = contract_limits(asr_pb2.RecognitionConfig, "look_ahead_ms")
PHRASE_LIMITS = contract_limits(asr_pb2.PhraseBoost, "phrases")
TAG_LIMITS = contract_limits(asr_pb2.Finalize, "tag")

MAX_KEY = 512
MAX_NUMBER = 1e9


def read_init(fields: dict[str, Any]) -> Init:
    """Reads an init message; fields that are not known are ignored, as a later version may know them.

    Raises:
        Refused: the first field that cannot be served.
    """
    endpoint_ms = None
    if fields.get("endpoint_ms") is not None:
        endpoint_ms = _whole(fields, "endpoint_ms", 0, ENDPOINT_LIMITS, "ms of silence")
    gap_ms = None
    if fields.get("gap_ms") is not None:
        gap_ms = _whole(fields, "gap_ms", 0, GAP_LIMITS, "ms without audio")
    look_ahead_ms = None
    if fields.get("look_ahead_ms") is not None:
        look_ahead_ms = _whole(fields, "look_ahead_ms", 0, LOOK_AHEAD_LIMITS, "ms of audio")
    enc, sr = _encoding(fields), 0
    if enc not in COMPRESSED or fields.get("sr") is not None:
        sr = _whole(fields, "sr", 16_000, RATE_LIMITS, "samples per second")
    return Init(
        sid=_sid(fields),
        sr=sr,
        enc=enc,
        interim=_flag(fields, "interim", True),
        words=_flag(fields, "words", False),
        details=_flag(fields, "details", False),
        endpoint_ms=endpoint_ms,
        phrases=_phrases(fields),
        boost=_number(fields, "boost"),
        language=_name(
            fields,
            "language",
            f"a BCP-47 code of at most {LANGUAGE_LIMITS.max_length} characters, such as en-US",
            LANGUAGE_LIMITS,
        ),
        end_tokens=_flag(fields, "end_tokens", endpoint_ms is not None),
        gap_ms=gap_ms,
        model=_name(
            fields,
            "model",
            f"a model's name of at most {MODEL_LIMITS.max_length} characters",
            MODEL_LIMITS,
        ),
        look_ahead_ms=look_ahead_ms,
        key=_key(fields),
    )


def _sid(fields: dict[str, Any]) -> str:
    sid = fields.get("sid")
    if (
        isinstance(sid, str)
        and 1 <= len(sid) <= SID_LIMITS.max_length
        and sid.isascii()
        and sid.isprintable()
    ):
        return sid
    found = "is missing" if "sid" not in fields else f"is {show(sid)}"
    raise invalid(
        "sid",
        f"sid {found}: it should be a string of 1 to {SID_LIMITS.max_length} printable ASCII characters",
    )


def _key(fields: dict[str, Any]) -> str:
    key = fields.get("key", "")
    if isinstance(key, str) and len(key) <= MAX_KEY and key.isascii() and (key.isprintable() or not key):
        return key
    raise invalid("key", f"key should be a string of at most {MAX_KEY} printable ASCII characters")


def _whole(fields: dict[str, Any], name: str, default: int, limits: asr_pb2.Limits, what: str) -> int:
    value = fields.get(name, default)
    low, high = int(limits.min), int(limits.max)
    # bool is an int to Python, not to the person who wrote the client.
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise invalid(name, f"{name} is {show(value)}: it should be a whole number from {low} to {high} ({what})")


def _phrases(fields: dict[str, Any]) -> tuple[str, ...]:
    """Reads a list of strings; what its model can do with them is the service's to say."""
    value = fields.get("phrases")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise invalid("phrases", f"phrases is {show(value)}: it should be a list of strings")
    for at, phrase in enumerate(value):
        if not isinstance(phrase, str) or not sendable(phrase):
            raise invalid(
                f"phrases[{at}]", f"phrases[{at}] is {show(phrase)}: it should be a string of words"
            )
    return tuple(value)


def _name(fields: dict[str, Any], name: str, what: str, limits: asr_pb2.Limits) -> str:
    """Reads the name of a language or a model, "" if it is not set; which ones there are is the service's to say."""
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, str) and len(value) <= limits.max_length and sendable(value):
        return value
    raise invalid(name, f"{name} is {show(value)}: it should be {what}")


def _number(fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER:
        return float(value)
    raise invalid(name, f"{name} is {show(value)}: it should be a number")


def _flag(fields: dict[str, Any], name: str, default: bool) -> bool:
    value = fields.get(name, default)
    if isinstance(value, bool):
        return value
    raise invalid(name, f"{name} is {show(value)}: it should be true or false")


def _encoding(fields: dict[str, Any]) -> str:
    value = fields.get("enc", "linear16")
    if isinstance(value, str) and value in ENCODINGS:
        return value
    raise invalid("enc", f"enc is {show(value)}: it should be one of {', '.join(ENCODINGS)}")


def read_tag(fields: dict[str, Any]) -> str:
    """Reads what a client wants to find in the final that it asks for; "" if nothing."""
    tag = fields.get("tag", "")
    if isinstance(tag, str) and len(tag) <= TAG_LIMITS.max_length and sendable(tag):
        return tag
    raise invalid(
        "tag", f"tag is {show(tag)}: it should be a string of at most {TAG_LIMITS.max_length} characters"
    )


def sendable(text: str) -> bool:
    """Whether it can be sent as UTF-8: a lone surrogate, which JSON's escapes can write, cannot."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


_repr = reprlib.Repr()
_repr.maxstring = 60
_repr.maxother = 60
_repr.maxlevel = 2


def show(value: object) -> str:
    """Shows a value as the client wrote it, cut to what fits into an error message; ASCII, so that it can be sent."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _repr.repr(value).encode("ascii", "backslashreplace").decode()


def invalid(field: str, message: str) -> Refused:
    """A refusal because of a field's value."""
    return Refused(Failure("invalid_argument", message, field=field))

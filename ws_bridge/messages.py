"""What a client of any dialect says, once it is read: messages, and how far they have come."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

COMPRESSED = ("flac", "ogg_opus", "webm_opus", "auto")
"""Encodings of audio that says its sample rate itself."""

ENCODINGS = ("linear16", "mulaw", "alaw", "float32", *COMPRESSED)


@dataclass(frozen=True, slots=True)
class Init:
    """The first message: how the stream is to be recognized.

    Attributes:
        sid: the client's label of the stream, echoed in every message; printable ASCII characters. It need not be
            unique: two connections with one sid are two streams.
        sr: samples per second; 0 for what compressed audio says itself.
        enc: one of `ENCODINGS`.
        interim: whether interims are sent.
        words: whether finals carry `words` with times and confidence.
        details: whether results carry `utterance`, `audio_ms`, `language`, and finals `reason` and `confidence`.
        endpoint_ms: silence that ends an utterance with a final; None: only the client ends one.
        phrases: words and phrases to listen for, such as names.
        boost: how much more likely these are than the model thinks; None: the service's default.
        language: BCP-47 code of the language that is spoken, or "auto"; "": the service's default. Results carry
            `language` if it is set.
        end_tokens: whether a token by which the model says that the utterance is over makes a final. By default only
            where `endpoint_ms` is set: a client that asks for neither expects one final.
        gap_ms: time without audio after which silence takes its place; None: time without audio does not count.
        model: name of the model that recognizes the stream; "": the service's default.
        look_ahead_ms: audio after a word that the model waits for; None: its default.
        key: API key for a service that asks for one, where the client can set no header, as in a browser.
        channels: of the audio, whose samples alternate; each has results of its own.
        punctuation: whether punctuation and capitals that the model writes stay.
        groups: further phrases, each group with a boost of its own. These three are for other protocols (`dialects/`).
    """

    sid: str
    sr: int = 16_000
    enc: str = "linear16"
    interim: bool = True
    words: bool = False
    details: bool = False
    endpoint_ms: int | None = None
    phrases: tuple[str, ...] = ()
    boost: float | None = None
    language: str = ""
    end_tokens: bool = False
    gap_ms: int | None = None
    model: str = ""
    look_ahead_ms: int | None = None
    key: str = field(default="", repr=False)
    channels: int = 1
    punctuation: bool = True
    groups: tuple[tuple[tuple[str, ...], float | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Audio:
    """A binary message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Finalize:
    """Asks for a final now; `tag` is echoed in it if it was given."""

    tag: str = ""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """The client is still there, and has no audio to send."""


@dataclass(frozen=True, slots=True)
class Close:
    """No more audio: the tail is flushed, and the last final sent."""


Message = Init | Audio | Finalize | KeepAlive | Close


class State(Enum):
    """How far the client's messages have come."""

    NEW = "new"
    OPEN = "open"
    CLOSING = "closing"

"""What a decoder of a compressed stream is, and the errors that all of them know. Pure.

The decoders are FFmpeg's and libopus, by PyAV, which is imported on first use. What stands around their frames is read
here, since PyAV reads containers from files only, for whose bytes it would wait in a thread for each stream.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from typing import Any, Protocol

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Coding
from asr_service.recognition.containers import identify
from asr_service.recognition.wav_header import AudioFormat


@cache
def is_pyav_installed() -> bool:
    """Whether compressed audio can be decoded: PyAV is an extra."""
    return importlib.util.find_spec("av") is not None


class Decoder(Protocol):
    """Decodes one stream."""

    @property
    def format(self) -> AudioFormat | None:
        """The format of the decoded samples; None until it is known."""
        ...

    def take(self, packet: bytes) -> Iterator[bytes]:
        """Yields the samples that a packet completes, a frame at a time, each decoded when it is asked for.

        Raises:
            InvalidArgument: the stream is damaged, or of another kind or format; the message says what it is.
        """
        ...

    def rest(self) -> Iterator[bytes]:
        """Yields what is left after the last packet; raises InvalidArgument if the stream ends amid a frame."""
        ...


def check_stated(found: AudioFormat, rate: int | None, channels: int, what: str) -> None:
    """Raises InvalidArgument if what a stream says of itself contradicts its config."""
    both = (
        ("sample_rate_hertz", rate if rate is not None else found.sample_rate, found.sample_rate),
        ("audio_channel_count", channels, found.channels),
    )
    for field, said, other in both:
        if said != other:
            raise InvalidArgument(
                f"config.{field} is {said}, and the audio is a {what} of {other}; they should agree",
                field=f"config.{field}",
            )


def check_pyav() -> None:
    """Raises InvalidArgument where PyAV is not installed."""
    if not is_pyav_installed():
        raise InvalidArgument(
            "config.encoding should be LINEAR16, FLOAT32, MULAW or ALAW: this server decodes no FLAC or Opus, since "
            "PyAV is not installed beside it (pip install 'asr-service[compressed]')",
            field="config.encoding",
        )


_SHOWN = {
    Coding.FLAC: "a FLAC stream",
    Coding.OGG_OPUS: "an Ogg stream of Opus",
    Coding.WEBM_OPUS: "a WebM stream of Opus",
}


def wrong_start(start: bytes, coding: Coding) -> InvalidArgument:
    """The error of a stream that is not what its config says."""
    kind = identify(start).kind
    found = f"begins as {kind.name}" if kind else f"does not begin as {_SHOWN[coding]}"
    return InvalidArgument(
        f"audio {found}, and config.encoding is {coding.name}; it should be {_SHOWN[coding]} from its first byte "
        "on, or the config should name what it is",
        field="audio",
    )


def open_codec(name: str, head: bytes, options: dict[str, str]) -> Any:
    """Opens a decoder of PyAV's. It takes a tenth of a second to import, and only compressed streams need it."""
    import av

    context = av.CodecContext.create(name, "r")
    context.extradata = head
    context.options = options
    # Threads of its own would hold frames back.
    context.thread_count = 1
    return context

"""Takes the packets of a stream of raw audio, and finds in them what is no audio: WAV headers, other files, text. Pure.

A WAV header that agrees with the stream's format is skipped, at the start of the stream, of any packet, and right
behind the audio of another WAV file; so are the chunks that may follow a file's audio. Whatever else is found ends the
stream with an error: no words are made of it.
"""

from __future__ import annotations

from enum import Enum

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Encoding
from asr_service.recognition.containers import Kind, identify
from asr_service.recognition.wav_header import (
    MAGIC_BYTES,
    AudioFormat,
    WavHeader,
    is_trailer,
    may_be_wav,
    read_wav_header,
)

_RIFF = b"RIFF"
_NAME_BYTES = 4
# WAV files in one packet: more than anybody sends, and few enough to be read at once.
_MOST_FILES = 64
_ENCODINGS = {
    Encoding.LINEAR16: "16-bit PCM",
    Encoding.MULAW: "mu-law",
    Encoding.ALAW: "A-law",
    Encoding.FLOAT32: "32-bit float PCM",
}


class _Place(Enum):
    """Where in its bytes a stream is."""

    START = "start"  # nothing has come yet, or too little to know a WAV header
    LOOKING = "looking"  # raw audio as far as it is known, which the first bytes have to show
    HEADER = "header"  # in a WAV header
    FILE = "file"  # in the audio that a WAV header has announced
    TRAILER = "trailer"  # in what follows a file's audio
    PLAIN = "plain"  # in raw audio


class RawAudio:
    """Finds the audio in the packets of one stream.

    Args:
        format: of the audio, as the client said.
        advice: what a client with a file that can be decoded may do instead, "" if there is nothing.
    """

    def __init__(self, format: AudioFormat, advice: str = "") -> None:  # noqa: A002 - as RIFF calls it
        self._format = format
        self._advice = advice
        self._place = _Place.START
        # Bytes that wait for those that tell what they are.
        self._held = b""
        # Of raw audio: its first bytes, which were passed on.
        self._seen = b""
        # Whether any of it was taken for audio, or a header read.
        self._has_begun = False
        # Of a file: its header, and the bytes of audio that it announces and that have not come.
        self._header: WavHeader | None = None
        self._left = 0

    def take(self, packet: bytes) -> bytes:
        """Takes a packet; returns the audio in it, without what may yet turn out to be none.

        Raises:
            InvalidArgument: the stream is a file or text, or a WAV file of another format; the message names both.
        """
        if packet[:4] != _RIFF:
            # What almost every packet is.
            if self._place is _Place.PLAIN:
                return packet
            if self._place is _Place.FILE and len(packet) <= self._left:
                self._left -= len(packet)
                return packet
        audio = []
        if (
            self._place not in (_Place.START, _Place.HEADER)
            and len(packet) >= MAGIC_BYTES
            and may_be_wav(packet)
        ):
            audio.append(self._held)
            self._held, self._place = b"", _Place.HEADER
        data, at, files = self._held + packet, 0, 0
        self._held = b""
        while at < len(data):
            files += self._place is _Place.HEADER
            if files > _MOST_FILES:
                raise InvalidArgument(
                    f"audio has more than {_MOST_FILES} WAV files in a packet", field="audio"
                )
            size, piece = self._next(data, at)
            at += size
            audio.append(piece)
        return b"".join(audio)

    def rest(self) -> bytes:
        """Returns the audio that was held back, after the last packet."""
        held, self._held = self._held, b""
        is_header = self._place is _Place.HEADER and len(held) >= MAGIC_BYTES
        return b"" if is_header else held

    def _next(self, data: bytes, at: int) -> tuple[int, bytes]:
        """Takes bytes from a place on; returns how many, and the audio that they are."""
        match self._place:
            case _Place.START:
                is_wav = may_be_wav(data[at : at + MAGIC_BYTES])
                self._place = _Place.HEADER if is_wav else _Place.LOOKING
                return 0, b""
            case _Place.LOOKING:
                self._look(data[at:])
            case _Place.HEADER:
                return self._read_header(data, at)
            case _Place.FILE if len(data) - at <= self._left:
                self._left -= len(data) - at
            case _Place.FILE:
                return self._leave_file(data, at)
            case _Place.TRAILER:
                return len(data) - at, b""
            case _:
                pass
        return len(data) - at, data[at:]

    def _look(self, data: bytes) -> None:
        self._has_begun = True
        self._seen += data
        verdict = identify(self._seen)
        if verdict.kind:
            raise _no_raw_audio(verdict.kind, self._advice)
        if verdict.final:
            self._seen, self._place = b"", _Place.PLAIN

    def _read_header(self, data: bytes, at: int) -> tuple[int, bytes]:
        start = data[at : at + MAGIC_BYTES]
        if not may_be_wav(start):
            # It only began like one. What is behind a file's audio is not its start.
            self._place = _Place.PLAIN if self._header else _Place.LOOKING
            return 0, b""
        header = read_wav_header(data, at) if len(start) == MAGIC_BYTES else None
        if header is None:
            self._held = data[at:]
            return len(data) - at, b""
        if header.format != self._format:
            raise _contradiction(header.format, self._format, first=not self._has_begun)
        self._has_begun = True
        self._header, self._left, self._place = header, header.data_bytes, _Place.FILE
        return header.size, b""

    def _leave_file(self, data: bytes, at: int) -> tuple[int, bytes]:
        """Looks at what follows the audio that a header has announced: other chunks, another file, or more audio."""
        assert self._header is not None
        end, padding = at + self._left, self._header.data_bytes % 2
        name = data[end + padding : end + padding + _NAME_BYTES]
        audio, self._left = data[at:end], 0
        if len(name) < _NAME_BYTES:
            self._held = data[end:]
            return len(data) - at, audio
        if name == _RIFF:
            self._place = _Place.HEADER
            return end + padding - at, audio
        self._place = _Place.TRAILER if is_trailer(name) else _Place.PLAIN
        return end - at, audio


def _no_raw_audio(kind: Kind, advice: str) -> InvalidArgument:
    known = f", or send it as it is with encoding {kind.coding.name}" if kind.coding else ""
    return InvalidArgument(
        f"audio begins as {kind.name}; it should be raw samples: 16-bit little-endian PCM, mu-law or A-law, as the "
        "config says, or a WAV file of those; decode it first, for example with ffmpeg -i FILE -f s16le -ac 1 -ar "
        f"16000 -{known}{advice if kind.decodable else ''}",
        field="audio",
    )


def _contradiction(found: AudioFormat, stated: AudioFormat, *, first: bool) -> InvalidArgument:
    if not first:
        return InvalidArgument(
            f"audio goes on with a WAV header of {_shown(found)}, in a stream of {_shown(stated)}; a stream has one "
            "format",
            field="audio",
        )
    both = (
        ("sample_rate_hertz", stated.sample_rate, found.sample_rate),
        ("encoding", stated.encoding.name, found.encoding.name),
        ("audio_channel_count", stated.channels, found.channels),
    )
    field, said, other = next(row for row in both if row[1] != row[2])
    return InvalidArgument(
        f"config.{field} is {said}, and the WAV header at the start of the audio says {other}; they should agree",
        field=f"config.{field}",
    )


def _shown(format: AudioFormat) -> str:  # noqa: A002
    plural = "s" if format.channels != 1 else ""
    return f"{format.sample_rate} Hz {_ENCODINGS[format.encoding]} in {format.channels} channel{plural}"

"""Chooses the decoder of a compressed stream: by its config, or by its first bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Coding
from asr_service.recognition.codecs.contract import Decoder, check_pyav, check_stated
from asr_service.recognition.codecs.flac import FlacDecoder
from asr_service.recognition.codecs.opus import OGG_MARK, WEBM_MARK, OggOpusDecoder, WebmOpusDecoder
from asr_service.recognition.containers import identify
from asr_service.recognition.raw_audio import RawAudio
from asr_service.recognition.wav_header import MAGIC_BYTES, AudioFormat, may_be_wav, read_wav_header

_MARKS = {b"fLaC": Coding.FLAC, OGG_MARK: Coding.OGG_OPUS, WEBM_MARK: Coding.WEBM_OPUS}


def make_decoder(coding: Coding, rate: int | None, channels: int) -> Decoder:
    """Makes the decoder of a stream.

    Args:
        coding: of the stream.
        rate: that the client has stated, None if it has not; Opus is decoded at its own.
        channels: that the client has stated.

    Raises:
        InvalidArgument: PyAV is not installed.
    """
    # AUTO may turn out to be a WAV file.
    if coding is not Coding.AUTO:
        check_pyav()
    match coding:
        case Coding.FLAC:
            return FlacDecoder(rate, channels)
        case Coding.OGG_OPUS:
            return OggOpusDecoder(channels)
        case Coding.WEBM_OPUS:
            return WebmOpusDecoder(channels)
        case Coding.AUTO:
            return AnyDecoder(rate, channels)


class AnyDecoder:
    """Decodes what the first bytes say: FLAC, Opus in Ogg or WebM, or a WAV file. Arguments as for `make_decoder`."""

    def __init__(self, rate: int | None, channels: int) -> None:
        self._stated = (rate, channels)
        self._start = b""
        self._decoder: Decoder | None = None

    @property
    def format(self) -> AudioFormat | None:
        """See `Decoder`."""
        return self._decoder.format if self._decoder else None

    def take(self, packet: bytes) -> Iterator[bytes]:
        """See `Decoder.take`."""
        if self._decoder is None:
            self._start += packet
            self._decoder = self._choose(self._start)
            packet, self._start = (self._start, b"") if self._decoder else (b"", self._start)
        if self._decoder is not None:
            yield from self._decoder.take(packet)

    def rest(self) -> Iterator[bytes]:
        """See `Decoder.rest`."""
        if self._decoder is not None:
            yield from self._decoder.rest()
        elif self._start:
            raise _unknown("ends before it says what it is")

    def _choose(self, start: bytes) -> Decoder | None:
        """The decoder of what starts so, None if there is more to come."""
        if may_be_wav(start[:MAGIC_BYTES]):
            header = read_wav_header(start) if len(start) >= MAGIC_BYTES else None
            if header is None:
                return None
            check_stated(header.format, *self._stated, "WAV file")
            return _WavFile(header.format)
        for mark, coding in _MARKS.items():
            if start.startswith(mark):
                return make_decoder(coding, *self._stated)
        verdict = identify(start)
        if verdict.kind:
            raise _unknown(f"begins as {verdict.kind.name}")
        if verdict.final:
            raise _unknown("begins as none of these")
        return None


class _WavFile:
    """Takes the audio out of a WAV file, or of one in every packet."""

    def __init__(self, found: AudioFormat) -> None:
        self.format: AudioFormat | None = found
        self._raw = RawAudio(found)

    def take(self, packet: bytes) -> Iterator[bytes]:
        """See `Decoder.take`."""
        if audio := self._raw.take(packet):
            yield audio

    def rest(self) -> Iterator[bytes]:
        """See `Decoder.rest`."""
        if audio := self._raw.rest():
            yield audio


def _unknown(what: str) -> InvalidArgument:
    return InvalidArgument(
        f"audio {what}, and config.encoding is AUTO, which is for FLAC, Opus in Ogg or WebM, and WAV files of 16-bit "
        "PCM, mu-law or A-law; raw samples need their encoding in the config, and other files have to be decoded first",
        field="audio",
    )

"""Compressed streams for the fuzzers: any bytes in place of FLAC, Ogg, WebM, and in place of the packets inside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Coding
from asr_service.recognition.codecs.decoders import make_decoder
from asr_service.recognition.codecs.flac_frames import crc8, crc16, read_header, read_stream_info
from asr_service.recognition.codecs.ogg import page_crc
from asr_service.recognition.codecs.opus import OpusPackets
from tests.support.compressed import compressed

# Pieces of one input that are looked at.
_MOST = 200
_MOST_PIECE = 2 * 2 * 65_535
_HEAD = b"OpusHead\1\2\0\0\x80\xbb\0\0\0\0\0"


def stream(data: bytes) -> None:
    """A whole stream: what any split gives is the same as far as both go, or refused as documented."""
    if len(data) < 4:
        return
    coding, step, channels = list(Coding)[data[0] % len(Coding)], 1 + data[1], 1 + data[2] % 2
    audio = _with_checksums(data[3:]) if data[2] & 2 else data[3:]
    whole, refused = heard(coding, [audio], channels)
    pieces, also = heard(coding, [audio[at : at + step] for at in range(0, len(audio), step)], channels)
    # Where one of them finds out earlier, what came before is the same.
    assert whole.startswith(pieces) or pieces.startswith(whole)
    assert refused or also or whole == pieces


def heard(coding: Coding, packets: list[bytes], channels: int) -> tuple[bytes, str]:
    """The samples of a stream, and why it ended, "" if it came to its end."""
    decoder, made = make_decoder(coding, None, channels), []
    try:
        for packet in packets:
            for piece in decoder.take(packet):
                assert 0 < len(piece) <= max(_MOST_PIECE, len(packet) + 65_536)
                made.append(piece)
                if len(made) >= _MOST:
                    return b"".join(made), "enough"
        made += decoder.rest()
    except InvalidArgument as error:
        check(error)
        return b"".join(made), error.message
    return b"".join(made), ""


def check(error: InvalidArgument) -> None:
    """An error that may be told."""
    assert error.field and error.message.startswith(error.field) and len(error.message) < 1000


def _with_checksums(audio: bytes) -> bytes:
    """The same with right checksums of Ogg pages and of a FLAC frame, so that what is behind them is reached."""
    if audio[:4] == b"fLaC" and len(audio) > 42:
        info = read_stream_info(audio[8:42])
        body = bytearray(audio[42:])
        # One frame, whose header's checksum stands where it is then right.
        for end in range(5, min(16, len(body))):
            body[end] = crc8(bytes(body[:end]))
            if read_header(bytes(body[:16]), info):
                break
        return audio[:4] + b"\x80" + audio[5:42] + bytes(body) + crc16(bytes(body)).to_bytes(2, "big")
    mended, at = bytearray(audio), 0
    while mended[at : at + 4] == b"OggS" and at + 27 <= len(mended):
        end = at + 27 + mended[at + 26]
        end += sum(mended[at + 27 : end])
        if end > len(mended):
            break
        mended[at + 22 : at + 26] = page_crc(bytes(mended[at:end])).to_bytes(4, "little")
        at = end
    return bytes(mended)


def opus_packets(data: bytes) -> None:
    """Packets of Opus as they come out of a container, for libopus: samples in number as they say, or refused."""
    opus = OpusPackets(_HEAD, 1 + len(data) % 2, "Ogg")
    while data:
        size, packet, data = data[0], data[1 : 1 + data[0]], data[1 + data[0] :]
        assert len(packet) <= size
        try:
            assert len(opus.decode(packet)) <= 5760 * 4
        except InvalidArgument:
            return


TARGETS: dict[str, Callable[[bytes], None]] = {"compressed": stream, "opus": opus_packets}


def _bare(flac: bytes) -> bytes:
    """The same without metadata, which are longer than the audio."""
    return flac[:4] + b"\x80" + flac[5:42] + flac[flac.index(b"\xff\xf8", 42) :]


def _seeds() -> dict[str, list[bytes]]:
    tone = (np.sin(np.arange(1_600) / 5) * 9_000).astype("<i2").tobytes()
    files = {
        0: [_bare(compressed(tone[:1_200], "flac")), _bare(compressed(tone[:1_200], "flac", channels=2))],
        1: [compressed(tone, "ogg_opus"), compressed(tone, "ogg_opus", channels=2)],
        2: [compressed(tone, "webm_opus"), compressed(tone, "matroska", channels=2)],
    }
    streams = [
        bytes((coding, step, channels + fixed)) + file
        for coding, both in files.items()
        for channels, file in enumerate(both)
        for step, fixed in ((6, 0), (200, 2))
    ]
    packets = [
        bytes((len(body),)) + body for body in (bytes.fromhex(one) for one in ("fcfffe", "7880", "0b0a"))
    ]
    return {"compressed": streams, "opus": [b"".join(packets), *packets]}


SEEDS = _seeds()
WORDS = {"compressed": ["OggS", "OpusHead", "OpusTags", "fLaC", "A_OPUS", "webm", "matroska"]}

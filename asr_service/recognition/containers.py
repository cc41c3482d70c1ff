"""Tells files and text from raw audio by their first bytes. Pure.

Raw audio has no mark by which it could be known, so each kind is named only by what audio does not hold by chance: by
at least 32 bits (all kinds together match less than one random start in 2**30), and MP3 and AAC, whose frames begin
with 11 or 12, by three frames in a row, each where the one before it says. Zeros, constants and quiet lines match none.
Base64 is 1024 bytes of its alphabet with 32 different ones: 16-bit audio would have to stay above a third of full
scale for so long, and G.711, whose neighbouring codes are neighbouring levels, leaves the alphabet, of which no run has
more than 26 codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from asr_service.core.values import Coding

ENOUGH = 16_384
"""So many bytes are looked at; what is not known by then is raw audio."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file or text.

    Attributes:
        name: with its article, for a sentence.
        decodable: whether libsndfile reads files of it (those that this service lets it read).
        parts: what stands where, all of it: (offset, bytes). Empty for kinds that are known otherwise.
        coding: what a stream's config may say for audio to come as it.
    """

    name: str
    decodable: bool = False
    parts: tuple[tuple[int, bytes], ...] = ()
    coding: Coding | None = None


MP3 = Kind("an MP3 file", decodable=True)
AAC = Kind("an AAC stream (ADTS)")
BASE64 = Kind("base64 text")

_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"
_ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"

MARKED: tuple[Kind, ...] = (
    Kind("a big-endian WAV file (RIFX)", True, ((0, b"RIFX"), (8, b"WAVE"))),
    Kind("a WAV file of 64 bits (RF64)", True, ((0, b"RF64"), (8, b"WAVE"))),
    Kind("a WAV file of 64 bits (BW64)", False, ((0, b"BW64"), (8, b"WAVE"))),
    Kind("a Wave64 file (W64)", True, ((0, _W64),)),
    Kind("an AVI file", False, ((0, b"RIFF"), (8, b"AVI "))),
    Kind("an AIFF file", True, ((0, b"FORM"), (8, b"AIF"))),
    Kind("an IFF file (8SVX)", False, ((0, b"FORM"), (8, b"8SVX"))),
    Kind("an IFF file (16SV)", False, ((0, b"FORM"), (8, b"16SV"))),
    Kind("an AU file", True, ((0, b".snd\0"),)),
    Kind("a little-endian AU file", True, ((0, b"dns."), (6, b"\0\0"))),
    Kind("a CAF file", True, ((0, b"caff\0"),)),
    Kind("a FLAC file", True, ((0, b"fLaC"),), Coding.FLAC),
    Kind("an Ogg file (Opus, Vorbis)", True, ((0, b"OggS\0"),), Coding.OGG_OPUS),
    Kind("a WebM or Matroska file", False, ((0, b"\x1a\x45\xdf\xa3"),), Coding.WEBM_OPUS),
    Kind("an MP4 file (M4A, MOV)", False, ((0, b"\0\0\0"), (4, b"ftyp"))),
    Kind("an AMR file", False, ((0, b"#!AMR"),)),
    Kind("a Windows Media file (ASF)", False, ((0, _ASF),)),
    Kind("a NIST SPHERE file", False, ((0, b"NIST_1A\n"),)),
    Kind("a VOC file", False, ((0, b"Creative Voice File"),)),
    Kind("a data URI", False, ((0, b"data:audio/"),)),
)
"""Kinds with a mark of their own. WAV (RIFF) is not among them: `raw_audio.py` reads its header."""

# Bytes of frames: of MPEG audio layer III by version and bitrate, of AAC as they say.
_FRAMES = 3
_KBIT = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_ID3_BYTES = 10

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n"
_TEXT_BYTES, _TEXT_VARIETY = 1024, 32


@dataclass(frozen=True, slots=True)
class Verdict:
    """What some first bytes are: of a kind, or raw audio (None); and whether more bytes could still change that."""

    kind: Kind | None
    final: bool


def identify(start: bytes) -> Verdict:
    """Says what a stream that starts with these bytes is; a final verdict is that of every longer start too."""
    undecided = False
    for kind in MARKED:
        matches = _has(start, kind.parts)
        if matches:
            return Verdict(kind, True)
        undecided |= matches is None
    checks: Mapping[Kind, Callable[[bytes], bool | None]] = {MP3: _is_mp3, AAC: _is_adts, BASE64: _is_base64}
    for kind, check in checks.items():
        matches = check(start)
        if matches:
            return Verdict(kind, True)
        undecided |= matches is None
    return Verdict(None, not undecided or len(start) >= ENOUGH)


def _has(start: bytes, parts: tuple[tuple[int, bytes], ...]) -> bool | None:
    """Whether the parts stand in these bytes; None if there are too few bytes to say."""
    known = True
    for offset, part in parts:
        found = start[offset : offset + len(part)]
        if found != part[: len(found)]:
            return False
        known &= len(found) == len(part)
    return known or None


def _is_mp3(start: bytes) -> bool | None:
    if start[:3] == b"ID3"[: len(start)]:
        # Versions 2.2 to 2.4, no unknown flags, and a size of four times seven bits.
        if len(start) < _ID3_BYTES:
            return None
        return start[3] in (2, 3, 4) and not start[5] & 0x0F and max(start[6:10]) < 0x80
    return _has_frames(start, 4, mp3_frame)


def _is_adts(start: bytes) -> bool | None:
    return _has_frames(start, 7, _adts_frame)


def _has_frames(
    start: bytes, header_bytes: int, read: Callable[[bytes], tuple[int, bytes] | None]
) -> bool | None:
    """Whether frames follow each other, all of one format, from the first byte on."""
    if start[:1] != b"\xff"[: len(start)]:
        return False
    place, formats = 0, set()
    for _ in range(_FRAMES):
        header = start[place : place + header_bytes]
        if len(header) < header_bytes:
            return None
        frame = read(header)
        if frame is None:
            return False
        place += frame[0]
        formats.add(frame[1])
        if len(formats) > 1:
            return False
    return True


def mp3_frame(header: bytes) -> tuple[int, bytes] | None:
    """Length and format of the frame with this header (ISO 11172-3, 2.4.1.3, layer III); None if it is none."""
    version, layer, rate = header[1] >> 3 & 3, header[1] >> 1 & 3, header[2] >> 2 & 3
    bitrate = header[2] >> 4
    if header[0] != 0xFF or header[1] < 0xE0 or layer != 1 or version == 1 or rate == 3 or bitrate in (0, 15):
        return None
    kbit = _KBIT[3 if version == 3 else 2][bitrate]
    size = (144 if version == 3 else 72) * kbit * 1000 // _MPEG_RATES[version][rate] + (header[2] >> 1 & 1)
    return size, bytes((header[1], header[2] & 0x0C))


def _adts_frame(header: bytes) -> tuple[int, bytes] | None:
    """Length and format of the frame with this header (ISO 13818-7, 6.2); None if it is none."""
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    if header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12 or size < 7:
        return None
    return size, bytes((header[1], header[2], header[3] & 0xF0))


def _is_base64(start: bytes) -> bool | None:
    if start.translate(None, _ALPHABET):
        return False
    if len(start) >= _TEXT_BYTES and len(set(start)) >= _TEXT_VARIETY:
        return True
    return None

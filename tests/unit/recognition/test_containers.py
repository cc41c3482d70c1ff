"""First bytes: every kind is known by its own, and no audio is taken for one."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr_service.recognition.containers import AAC, BASE64, ENOUGH, MARKED, MP3, Verdict, identify

NOISE = (np.random.default_rng(3).standard_normal(16_000) * 3_000).astype("<i2")
NAMES = {kind.name: kind for kind in (*MARKED, MP3, AAC, BASE64)}
WRITTEN = {
    "AIFF": "an AIFF file",
    "AU": "an AU file",
    "CAF": "a CAF file",
    "FLAC": "a FLAC file",
    "MP3": "an MP3 file",
    "NIST": "a NIST SPHERE file",
    "OGG": "an Ogg file (Opus, Vorbis)",
    "RF64": "a WAV file of 64 bits (RF64)",
    "SVX": "an IFF file (16SV)",
    "VOC": "a VOC file",
    "W64": "a Wave64 file (W64)",
}
UNKNOWN = {"AVR", "HTK", "IRCAM", "MAT4", "MAT5", "MPC2K", "PAF", "PVF", "RAW", "SD2", "SDS", "WVE", "XI"}
"""Formats of libsndfile of other trades or times, or without a mark; WAV is read by its header."""


def written(form: str, subtype: str | None = None, endian: str = "FILE") -> bytes:
    """A file as libsndfile writes it."""
    file = io.BytesIO()
    soundfile.write(file, NOISE, 16_000, format=form, subtype=subtype, endian=endian)
    return file.getvalue()


def adts(frames: int = 5) -> bytes:
    """AAC frames of 48 kHz stereo with nothing in them."""
    size = 200
    header = bytes((0xFF, 0xF1, 0x4C, 0x80 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F, 0xFC))
    return (header + bytes(size - 7)) * frames


EXAMPLES: dict[str, bytes] = {
    **{name: written(form) for form, name in WRITTEN.items()},
    "a big-endian WAV file (RIFX)": written("WAV", endian="BIG"),
    "a little-endian AU file": written("AU", endian="LITTLE"),
    "an MP3 file": b"ID3\x04\0\0\0\0\x02\x01" + bytes(300),
    "an AAC stream (ADTS)": adts(),
    "base64 text": base64.b64encode(NOISE.tobytes()),
    "a WebM or Matroska file": bytes.fromhex("1a45dfa39f4286810142f7810142f2810442f381084282847765626d"),
    "an MP4 file (M4A, MOV)": b"\0\0\0\x20ftypM4A \0\0\x02\0",
    "an AMR file": b"#!AMR-WB\n",
    "a Windows Media file (ASF)": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "an AVI file": b"RIFF\x24\x10\0\0AVI LIST",
    "a data URI": b"data:audio/wav;base64,UklGR",
    "a WAV file of 64 bits (BW64)": b"BW64\xff\xff\xff\xffWAVEds64",
    "an IFF file (8SVX)": b"FORM\0\0\x10\08SVXVHDR",
}


def test_every_kind_has_an_example() -> None:
    assert EXAMPLES.keys() == NAMES.keys()
    assert WRITTEN.keys() | UNKNOWN | {"WAV", "WAVEX"} == soundfile.available_formats().keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_kind_is_known_by_its_first_bytes_and_no_sooner(name: str) -> None:
    """The verdict comes once and stays; before it there is none for another kind."""
    data = EXAMPLES[name]
    ends = (*range(min(len(data), 40)), *range(40, len(data), 97), len(data))
    verdicts = [identify(data[:end]) for end in ends]
    first = verdicts.index(Verdict(NAMES[name], True))
    assert set(verdicts[:first]) == {Verdict(None, False)}
    assert set(verdicts[first:]) == {Verdict(NAMES[name], True)}


def test_mp3_without_tags_is_known_by_three_frames() -> None:
    for data in (written("MP3"), written("MP3")[:4000]):
        assert identify(data).kind is MP3
    spoiled = bytearray(written("MP3"))
    spoiled[spoiled.index(spoiled[:2], 100)] ^= 1
    assert identify(bytes(spoiled)) == Verdict(None, True)


def tone(rate: int, hertz: float, level: float) -> bytes:
    return (level * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)).astype("<i2").tobytes()


ORDINARY: dict[str, Callable[[], bytes]] = {
    "zeros": lambda: bytes(40_000),
    "mu-law silence": lambda: b"\xff" * 40_000,
    "mu-law minus zero": lambda: b"\x7f" * 40_000,
    "A-law silence": lambda: b"\xd5" * 40_000,
    "A-law minus zero, which is a letter": lambda: b"U" * 40_000,
    "a constant of letters": lambda: b"AB" * 20_000,
    "minus one": lambda: b"\xff\xff" * 20_000,
    "loud noise": lambda: np.random.default_rng(1).bytes(40_000),
    "a quiet tone": lambda: tone(16_000, 440, 30),
    "a loud tone": lambda: tone(48_000, 50, 32_767),
    "a square wave of letters": lambda: (b"kk" * 80 + b"\x94\x94" * 80) * 50,
    "a quiet A-law line below zero": lambda: bytes(
        0x55 ^ code for code in np.abs(np.random.default_rng(2).normal(0, 12, 40_000)).astype(int)
    ),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_audio_is_audio(name: str) -> None:
    data = ORDINARY[name]()
    assert [identify(data[:end]).kind for end in (0, 1, 3, 11, 640, 5_000, ENOUGH, len(data))] == [None] * 8
    assert identify(data[:ENOUGH]).final


def test_many_random_starts_match_nothing() -> None:
    """All that a start is known by, but base64, stands in its first bytes: chances are one in 2**30."""
    starts = np.random.default_rng(7).integers(0, 256, (500_000, 4), np.uint8)
    marks = [parts[0][1][:4] for parts in (kind.parts for kind in MARKED)]
    found = sum(
        int((starts[:, : len(m)] == np.frombuffer(m, np.uint8)).all(axis=1).sum()) for m in marks if m[0]
    )
    assert found == 0
    bits = [8 * sum(len(part) for _, part in kind.parts) for kind in MARKED]
    assert sum(2.0**-count for count in bits) < 2.0**-30


@given(st.binary(max_size=200) | st.binary(max_size=64).map(lambda some: some * 20))
def test_a_final_verdict_is_that_of_every_longer_start(data: bytes) -> None:
    whole = identify(data)
    for end in range(len(data)):
        early = identify(data[:end])
        assert not early.final or early == whole
        assert early.kind is None or early.final

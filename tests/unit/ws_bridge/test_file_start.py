"""What the first bytes of a file say of its audio."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compressed import compressed
from ws_bridge.file_start import AudioFormat, as_stream, read_start
from ws_bridge.status import Refused

RATE = 48_000
SAMPLES = np.arange(-960, 960, dtype="<i2")


def written(form: str, subtype: str, channels: int = 1, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.stack([SAMPLES] * channels, 1), rate, format=form, subtype=subtype)
    return file.getvalue()


def of_ffmpeg(form: str, channels: int = 1) -> bytes:
    return compressed(SAMPLES.tobytes() * channels, form, rate=RATE, channels=channels)


FILES = {
    "WAV": (written("WAV", "PCM_16", 2, 8_000), AudioFormat("linear16", 8_000, 2)),
    "WAV of mu-law": (written("WAV", "ULAW"), AudioFormat("mulaw", RATE, 1)),
    "WAV of A-law, extensible": (written("WAVEX", "ALAW"), AudioFormat("alaw", RATE, 1)),
    "WAV of 24 bits": (written("WAV", "PCM_24"), AudioFormat("", RATE, 1)),
    "FLAC": (written("FLAC", "PCM_16"), AudioFormat("flac", 0, 1)),
    "FLAC, two channels": (written("FLAC", "PCM_24", 2), AudioFormat("flac", 0, 2)),
    "FLAC from a pipe": (of_ffmpeg("flac", 2), AudioFormat("flac", 0, 2)),
    "Opus in Ogg": (written("OGG", "OPUS"), AudioFormat("ogg_opus", 0, 1)),
    "Opus in Ogg, two channels": (of_ffmpeg("ogg_opus", 2), AudioFormat("ogg_opus", 0, 2)),
    "Opus in WebM": (of_ffmpeg("webm_opus"), AudioFormat("webm_opus", 0, 1)),
    "Opus in Matroska, two channels": (of_ffmpeg("matroska", 2), AudioFormat("webm_opus", 0, 2)),
    "no Opus in WebM, for the service to refuse": (
        b"\x1aE\xdf\xa3" + bytes(9) + b"A_VORBIS\x1fC\xb6u" + bytes(9),
        AudioFormat("webm_opus", 0, 1),
    ),
    "Vorbis in Ogg": (written("OGG", "VORBIS"), AudioFormat("", 0, 0)),
    "MP3": (written("MP3", "MPEG_LAYER_III"), AudioFormat("", 0, 0)),
    "text": (b"no audio", AudioFormat("", 0, 0)),
}


@pytest.mark.parametrize("name", FILES)
def test_formats(name: str) -> None:
    data, found = FILES[name]
    assert read_start(data) == found
    # Whatever is behind does not change what was said.
    known = next(size for size in range(len(data) + 1) if read_start(data[:size]))
    assert {read_start(data[:size]) for size in range(known, len(data) + 1, 7)} == {found}


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"\x1aE\xdf\xa3"])
)
def test_any_bytes(data: bytes, mark: bytes) -> None:
    try:
        found = read_start(mark + data)
    except Refused:
        return
    if found is not None:
        assert read_start(mark + data + b"OpusHead\1\2 fmt data") == found
        for separate in (False, True):
            streamed = as_stream(found, separate_channels=separate)
            assert streamed is None or (streamed.enc == found.enc and 1 <= streamed.channels <= 2)


def test_a_webm_file_that_never_says() -> None:
    long = b"\x1aE\xdf\xa3" + bytes(65_536)
    assert read_start(long[:-4]) is None
    assert read_start(long) == AudioFormat("webm_opus", 0, 1)


@pytest.mark.parametrize(
    ("enc", "channels", "separate", "streamed"),
    [
        ("linear16", 1, False, 1),
        ("linear16", 2, True, 2),
        ("linear16", 2, False, None),
        ("flac", 2, False, None),
        ("ogg_opus", 2, False, 1),
        ("webm_opus", 2, True, 2),
        ("ogg_opus", 6, False, None),
        ("webm_opus", 0, True, None),
        ("", 1, False, None),
    ],
)
def test_what_a_stream_takes_as_it_is(enc: str, channels: int, separate: bool, streamed: int | None) -> None:
    found = as_stream(AudioFormat(enc, 0, channels), separate_channels=separate)
    assert (found and found.channels) == streamed

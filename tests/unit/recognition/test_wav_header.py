from __future__ import annotations

import io
import wave

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Encoding
from asr_service.recognition.wav_header import AudioFormat, WavHeader, may_be_wav, read_wav_header

PCM = (np.arange(4_000) % 1000).astype("<i2")


def wav(subtype: str, rate: int = 8000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.stack([PCM] * channels, axis=1), rate, subtype=subtype, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize(
    ("subtype", "encoding"),
    [("PCM_16", Encoding.LINEAR16), ("ULAW", Encoding.MULAW), ("ALAW", Encoding.ALAW)],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_headers_as_libsndfile_writes_them(subtype: str, encoding: Encoding, channels: int) -> None:
    file = wav(subtype, channels=channels)
    header = read_wav_header(file)
    assert header is not None
    assert header.format == AudioFormat(encoding, 8000, channels)
    assert len(file) - header.size == PCM.size * channels * (2 if encoding is Encoding.LINEAR16 else 1)


def test_a_header_is_not_there_until_its_last_byte() -> None:
    file = wav("PCM_16")
    header = read_wav_header(file)
    assert header is not None
    for end in range(header.size):
        assert may_be_wav(file[:end]) == bool(end)
        assert read_wav_header(file[:end]) is None


@pytest.mark.parametrize("audio", [b"", b"\0", b"RIFX", b"RIFFabcdWAVX", b"\x01\x02" * 10])
def test_raw_audio_is_no_wav(audio: bytes) -> None:
    assert not may_be_wav(audio)


@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "PCM_U8"])
def test_samples_that_streams_do_not_take(subtype: str) -> None:
    with pytest.raises(InvalidArgument, match="16-bit PCM"):
        read_wav_header(wav(subtype))


@given(st.binary(max_size=200))
def test_any_bytes_after_the_magic_are_survived(rest: bytes) -> None:
    try:
        header = read_wav_header(b"RIFF\0\0\0\0WAVE" + rest)
    except InvalidArgument:
        return
    assert header is None or header.size <= 12 + len(rest)


def test_endless_headers_are_refused() -> None:
    junk = b"RIFF\0\0\0\0WAVE" + b"junk" + (100_000).to_bytes(4, "little")
    with pytest.raises(InvalidArgument, match="longer than"):
        read_wav_header(junk)


def chunk(name: bytes, content: bytes = b"", size: int | None = None) -> bytes:
    return name + (len(content) if size is None else size).to_bytes(4, "little") + content


def test_a_format_that_is_too_short_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="format of 0 bytes"):
        read_wav_header(b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ") + bytes(40))


def test_thousands_of_chunks_are_refused_before_they_are_looked_at() -> None:
    with pytest.raises(InvalidArgument, match="more than 64 chunks"):
        read_wav_header(b"RIFF\0\0\0\0WAVE" + chunk(b"junk") * 100_000)


def test_a_format_is_not_judged_by_its_first_half() -> None:
    """An extensible format tells its kind in the second half, which may be in the next packet."""
    kind = (0xFFFE).to_bytes(2, "little") + (1).to_bytes(2, "little") + (8000).to_bytes(4, "little")
    rest = bytes(6) + (16).to_bytes(2, "little") + bytes(8) + (1).to_bytes(2, "little") + bytes(14)
    file = b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ", kind + rest) + chunk(b"data")
    for end in range(12, len(file)):
        assert read_wav_header(file[:end]) is None
    header = read_wav_header(file)
    assert header is not None
    assert header.format == AudioFormat(Encoding.LINEAR16, 8000, 1)


def test_python_writes_the_header_we_read() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(44_100)
        out.writeframes(PCM.tobytes())
    header = read_wav_header(file.getvalue())
    assert header is not None
    assert header == WavHeader(AudioFormat(Encoding.LINEAR16, 44_100, 2), 44, PCM.nbytes)

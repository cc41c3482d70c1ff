"""Files as the command-line clients read them."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clients.wav import WavError, blocks, opened, read_wav
from tests.support.audio_files import LIST, UNFINISHED, wav, written

PCM = (12_000 * np.sin(np.arange(200_001) / 9)).astype("<i2")


def read(folder: Path, file: bytes, rate: int = 16_000) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    path = folder / "file"
    path.write_bytes(file)
    return np.frombuffer(read_wav(path, rate), "<i2")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "AIFF", "CAF", "W64"])
def test_every_form_has_the_same_samples(tmp_path: Path, form: str, subtype: str) -> None:
    assert np.array_equal(read(tmp_path, written(PCM, form, subtype)), PCM)


@pytest.mark.parametrize("size", UNFINISHED)
def test_a_header_that_was_never_finished(tmp_path: Path, size: int) -> None:
    assert np.array_equal(read(tmp_path, wav(PCM.tobytes(), size=size, riff=size, before=LIST)), PCM)
    as_float = (PCM / 32768).astype("<f4").tobytes()
    assert np.array_equal(read(tmp_path, wav(as_float, size=size, kind=3, bits=32)), PCM)


@pytest.mark.parametrize("size", [None, 0])
def test_a_long_file_is_not_read_to_be_opened(tmp_path: Path, size: int | None) -> None:
    """Nor held in memory, whether its header was finished or not."""
    path = tmp_path / "long.wav"
    header = wav(b"", size=400_000_000 if size is None else size)
    path.write_bytes(header)
    os.truncate(path, len(header) + 400_000_000)
    tracemalloc.start()
    try:
        with opened(path) as file:
            assert file.frames == 200_000_000
            assert next(blocks(file, 1.0)).shape == (16_000, 1)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_file_without_audio(tmp_path: Path) -> None:
    assert read(tmp_path, wav(b"", after=LIST)).size == 0


def test_flac_that_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    flac = bytearray(written(PCM, "FLAC", "PCM_16"))
    struct.pack_into(">Q", flac, 18, struct.unpack_from(">Q", flac, 18)[0] & ~(2**36 - 1))
    assert np.array_equal(read(tmp_path, bytes(flac)), PCM)


def test_mp3_is_decoded_in_one_go(tmp_path: Path) -> None:
    file = written(PCM, "MP3", "MPEG_LAYER_III")
    path = tmp_path / "whole.mp3"
    path.write_bytes(file)
    whole, _ = soundfile.read(path, dtype="float64")
    heard = read(tmp_path, file)
    assert heard.size == whole.size and np.abs(heard - whole * 32768).max() <= 1


def test_what_is_too_loud_is_clipped_and_what_is_no_number_is_silence(tmp_path: Path) -> None:
    loud = np.array([0.5, 3.0, -3.0, np.nan, np.inf, -np.inf])
    expected = [16384, 32767, -32768, 0, 32767, -32768]
    assert read(tmp_path, written(loud, "WAV", "DOUBLE")).tolist() == expected


def test_what_is_no_audio_is_told(tmp_path: Path) -> None:
    with pytest.raises(WavError, match="not an audio file that can be read"):
        read(tmp_path, b"hello")
    with pytest.raises(WavError, match="no such file"):
        read_wav(tmp_path / "none.wav")

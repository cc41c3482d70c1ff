"""Recordings read half a second at a time: the samples of the whole file, or a sentence."""

from __future__ import annotations

import fractions
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.transcribe.recordings import recording
from clients.wav import WavError, read_wav
from tests.support.audio import speechlike
from tests.support.audio_files import UNFINISHED, wav, written
from tests.support.process import ROOT

PCM = np.frombuffer(speechlike(5.3, seed=3), "<i2")
SPOKEN = np.frombuffer(read_wav(ROOT / "asr_service/assets/clips/clip1.wav"), "<i2")
"""Speech, which codecs are made for."""


def read(path: Path, *, separate: bool = False) -> tuple[bytes, int]:
    with recording(path, separate=separate) as opened:
        return b"".join(opened.packets), opened.channels


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_samples_are_those_of_the_whole_file(tmp_path: Path, rate: int, channels: int) -> None:
    samples = np.stack([PCM, np.roll(PCM, 77)][:channels], axis=1)
    path = tmp_path / "file.wav"
    path.write_bytes(written(samples, "WAV", "PCM_16", rate))
    assert read(path) == (read_wav(path), 1)
    both, count = read(path, separate=True)
    assert count == channels
    for channel in range(channels):
        alone = tmp_path / "alone.wav"
        alone.write_bytes(written(samples[:, channel], "WAV", "PCM_16", rate))
        assert np.frombuffer(both, "<i2")[channel::channels].tobytes() == read_wav(alone)


def test_packets_are_small_and_the_duration_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file.flac"
    path.write_bytes(written(PCM, "FLAC", "PCM_16"))
    with recording(path) as opened:
        assert opened.duration_s == pytest.approx(5.3)
        assert [len(packet) for packet in opened.packets] == [16_000] * 10 + [2 * (len(PCM) - 80_000)]


@pytest.mark.parametrize("size", UNFINISHED)
def test_a_header_that_was_never_finished(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file.wav"
    path.write_bytes(wav(PCM.tobytes(), size=size, riff=size))
    assert read(path) == (PCM.tobytes(), 1)


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    text, empty, flac = tmp_path / "text.wav", tmp_path / "empty.wav", tmp_path / "cut.flac"
    text.write_text("no audio")
    empty.touch()
    whole = written(PCM, "FLAC", "PCM_16")
    flac.write_bytes(whole[: len(whole) // 2])
    for path, why in (
        (text, "not an audio file that can be read"),
        (empty, "not an audio file that can be read"),
        (tmp_path / "none.wav", "no such file"),
        (tmp_path, "no such file"),
    ):
        with pytest.raises(WavError, match=f"^{path}: {why}"):
            read(path)
    with pytest.raises(WavError, match=f"^{flac}: "):
        read(flac)


def encoded(path: Path, codec: str, form: str, rate: int) -> None:
    """Writes `SPOKEN` as FFmpeg does."""
    av: Any = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate)
        context = stream.codec_context
        context.layout, context.format, context.time_base = "mono", form, fractions.Fraction(1, rate)
        context.open()
        convert = av.AudioResampler(
            format=form, layout="mono", rate=rate, frame_size=context.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(SPOKEN.reshape(1, -1).copy(), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        for part in [*convert.resample(frame), *convert.resample(None), None]:
            for packet in stream.encode(part):
                out.mux(packet)


@pytest.mark.parametrize(
    ("name", "codec", "form", "rate", "exact"),
    [
        ("talk.m4a", "aac", "fltp", 48_000, False),
        ("talk.webm", "libopus", "s16", 48_000, False),
        ("talk.mkv", "flac", "s16", 16_000, True),
    ],
)
def test_what_ffmpeg_reads(tmp_path: Path, name: str, codec: str, form: str, rate: int, exact: bool) -> None:
    path = tmp_path / name
    encoded(path, codec, form, rate)
    heard = np.frombuffer(read(path)[0], "<i2")
    if exact:
        assert np.array_equal(heard, SPOKEN)
    else:
        assert 0 <= len(heard) - len(SPOKEN) < 1_600
        assert np.corrcoef(heard[: len(SPOKEN)], SPOKEN)[0, 1] > 0.99


def test_what_ffmpeg_reads_and_breaks_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "talk.mkv"
    encoded(path, "flac", "s16", 16_000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    whole_s = re.escape(f"{len(SPOKEN) / 16_000:.1f} s")
    with pytest.raises(WavError, match=rf"^{path}: (breaks off: \d\.\d of its {whole_s}|not an audio file) "):
        read(path)


def test_audio_that_ffmpeg_has_no_decoder_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "talk.mkv"
    encoded(path, "flac", "s16", 16_000)
    path.write_bytes(path.read_bytes().replace(b"A_FLAC", b"A_NONE"))
    with pytest.raises(WavError, match=f"^{path}: its audio is in a form that FFmpeg has no decoder for$"):
        read(path)

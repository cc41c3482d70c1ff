"""Reads a recording of any length, a little at a time, as 16-bit samples at the rate that is sent."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from clients.wav import Samples, WavError, blocks, clipped, mixed, opened, pcm16

RATE = 16_000
BLOCK_S = 0.5
MOST_CHANNELS = 2
"""Of a call: `audio_channel_count` of the contract."""
_UNKNOWN = 2**62
"""So many samples and more has a file that does not know how many it has."""
_TOLD = {"mov", "matroska"}
"""Containers of FFmpeg's whose duration is told by whoever wrote them; that of others may be a guess."""
_SLACK_S = 1.0
"""What of a duration may be the silence of encoders, or rounded."""


@dataclass(frozen=True, slots=True)
class Recording:
    """An open recording.

    Attributes:
        channels: that its packets have.
        duration_s: None if the file does not say.
        packets: 16-bit little-endian PCM at `RATE`, samples of the channels alternating, half a second at a time.
    """

    channels: int
    duration_s: float | None
    packets: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class _Decoded:
    rate: int
    channels: int
    duration_s: float | None
    blocks: Iterator[Samples]


@contextmanager
def recording(path: Path, *, separate: bool = False) -> Iterator[Recording]:
    """Opens an audio file: one that libsndfile reads, or, where PyAV is installed, one that FFmpeg does.

    Args:
        path: of the file.
        separate: its channels as they are, in place of their average.

    Raises:
        WavError: no such file, not audio, or too many channels; also while packets are read.
    """
    try:
        with opened(path):
            decoded = _by_libsndfile(path)
    except WavError as refused:
        if not path.is_file():
            raise
        decoded = _by_ffmpeg(path, refused)
    with decoded as source:
        channels = source.channels if separate else 1
        if channels > MOST_CHANNELS:
            raise WavError(
                f"{path}: has {channels} channels, and at most {MOST_CHANNELS} can be transcribed separately"
            )
        yield Recording(channels, source.duration_s, _packets(source, channels))


def _packets(source: _Decoded, channels: int) -> Iterator[bytes]:
    convert = soxr.ResampleStream(source.rate, RATE, channels) if source.rate != RATE else None
    for block in source.blocks:
        audio = mixed(block) if channels == 1 else clipped(block)
        if convert is not None:
            audio = convert.resample_chunk(audio)
        if len(audio):
            yield pcm16(audio)
    if convert is not None:
        silence = np.zeros((0, channels), np.float32)
        if len(tail := convert.resample_chunk(silence.squeeze(1) if channels == 1 else silence, last=True)):
            yield pcm16(tail)


@contextmanager
def _by_libsndfile(path: Path) -> Iterator[_Decoded]:
    with opened(path) as file:
        frames = file.frames if file.frames < _UNKNOWN else None

        def whole() -> Iterator[Samples]:
            count = 0
            for block in blocks(file, BLOCK_S):
                count += len(block)
                yield block
            # Other forms do not say, or are taken at their length.
            if file.format == "FLAC" and frames is not None and count < frames:
                raise _broken(path, count / file.samplerate, frames / file.samplerate)

        duration_s = None if frames is None else frames / file.samplerate
        yield _Decoded(file.samplerate, file.channels, duration_s, whole())


@contextmanager
def _by_ffmpeg(path: Path, refused: WavError) -> Iterator[_Decoded]:
    """Opens what libsndfile has refused."""
    try:
        # Not a dependency: whoever has it gets more out of it.
        av: Any = importlib.import_module("av")
    except ImportError:
        raise WavError(f"{refused}; with PyAV (pip install av) more kinds are read") from refused
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error
    with container:
        if not container.streams.audio:
            raise WavError(f"{path}: there is no audio in it")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise WavError(f"{path}: its audio is in a form that FFmpeg has no decoder for")
        rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        if not (rate and channels):
            raise WavError(f"{path}: its audio has no rate or no channels")
        duration_s = container.duration / av.time_base if container.duration else None
        told_s = float(stream.duration * stream.time_base) if stream.duration else None
        if told_s is None and len(container.streams) == 1:
            told_s = duration_s
        if not _TOLD & set(container.format.name.split(",")):
            told_s = None
        yield _Decoded(rate, channels, duration_s, _frames(av, path, container, stream, told_s))


def _frames(av: Any, path: Path, container: Any, stream: Any, told_s: float | None) -> Iterator[Samples]:
    """Yields what a stream decodes to, in one form from its first frame to its last; WavError if much is missing."""
    context, count = stream.codec_context, 0
    convert = av.AudioResampler(format="flt", layout=context.layout, rate=context.sample_rate)
    try:
        for frame in container.decode(stream):
            count += frame.samples
            for part in convert.resample(frame):
                yield part.to_ndarray().reshape(-1, context.channels)
        for part in convert.resample(None):
            yield part.to_ndarray().reshape(-1, context.channels)
    except (av.FFmpegError, ValueError) as error:  # the latter where a stream changes its form
        raise _unreadable(path, error) from error
    if told_s is not None and count / context.sample_rate < told_s - _SLACK_S:
        raise _broken(path, count / context.sample_rate, told_s)


def _broken(path: Path, read_s: float, told_s: float) -> WavError:
    return WavError(f"{path}: breaks off: {read_s:.1f} of its {told_s:.1f} s can be read")


def _unreadable(path: Path, error: Exception) -> WavError:
    return WavError(
        f"{path}: not an audio file that can be read ({getattr(error, 'strerror', None) or error})"
    )

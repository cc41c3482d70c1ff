"""Compressed audio as FFmpeg makes it, and what FFmpeg decodes of the whole of it: what streams are compared with."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np

Pcm = np.ndarray[Any, np.dtype[np.int16]]

FORMS = {
    "flac": ("flac", "flac"),
    "ogg_opus": ("libopus", "ogg"),
    "webm_opus": ("libopus", "webm"),
    "matroska": ("libopus", "matroska"),
}
"""Codec and container of each form."""


def compressed(pcm: bytes, form: str, rate: int = 16_000, channels: int = 1, **options: str) -> bytes:
    """Compresses 16-bit samples; FLAC is written as to a pipe, with nothing known of its length."""
    codec, container = FORMS[form]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate, options=options)
        stream.layout = "mono" if channels == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(pcm, "<i2").reshape(1, -1),
            format="s16",
            layout="mono" if channels == 1 else "stereo",
        )
        frame.sample_rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def decoded(data: bytes, channels: int | None = None) -> bytes:
    """All samples of a file, 16-bit, as FFmpeg reads its container, and FFmpeg or libopus decodes what is in it.

    Of Opus, `channels` says how many libopus is to make of it; None for those of the encoder.
    """
    with av.open(io.BytesIO(data), "r") as file:
        stream = file.streams.audio[0]
        name = "libopus" if stream.codec_context.name in ("opus", "libopus") else stream.codec_context.name
        context: Any = av.CodecContext.create(name, "r")
        head = bytes(stream.codec_context.extradata or b"")
        context.extradata = head if channels is None else head[:9] + bytes((channels,)) + head[10:]
        frames = [frame for packet in file.demux(stream) for frame in context.decode(packet)]
    return b"".join(frame.to_ndarray().astype("<i2").tobytes() for frame in frames)

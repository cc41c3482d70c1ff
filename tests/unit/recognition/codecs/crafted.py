"""Parts of compressed streams as no encoder writes them: pages of Ogg, elements of WebM, blocks of FLAC."""

from __future__ import annotations

import io
import struct
from typing import Any

import av
import numpy as np

from asr_service.recognition.codecs.ogg import page_crc

FIRST, CONTINUED = 2, 1
"""Flags of a page."""

BLOCK, SIMPLE_BLOCK, BLOCK_GROUP, TRACKS, TRACK = 0xA1, 0xA3, 0xA0, 0x1654AE6B, 0xAE
"""Names of elements."""

VOID = b"\xec\x80"
"""An element with nothing in it."""

FOREIGN_BLOCK = b"\x89\0\0\0"
"""A block of a track that no file has (number 9), with nothing in it."""


def page(serial: int, flags: int, sizes: bytes, body: bytes = b"", position: int = 0) -> bytes:
    """A page of Ogg with a right checksum; `sizes` are those of its segments."""
    head = b"OggS\0" + bytes((flags,)) + struct.pack("<QIII", position, serial, 0, 0) + bytes((len(sizes),))
    made = bytearray(head + sizes + body)
    made[22:26] = page_crc(bytes(made)).to_bytes(4, "little")
    return bytes(made)


def pages(data: bytes) -> list[bytes]:
    """Cuts an Ogg file into its pages."""
    made, at = [], 0
    while at < len(data):
        end = at + 27 + data[at + 26]
        end += sum(data[at + 27 : end])
        made.append(data[at:end])
        at = end
    return made


def serial_of(data: bytes) -> int:
    """The number of the logical stream that a page is of."""
    return int.from_bytes(data[14:18], "little")


def element(name: int, body: bytes) -> bytes:
    """An element of WebM."""
    return (
        name.to_bytes((name.bit_length() + 7) // 8, "big") + (1 << 28 | len(body)).to_bytes(4, "big") + body
    )


def padding(size: int = 0) -> bytes:
    """A block of FLAC's metadata that means nothing."""
    return b"\1" + size.to_bytes(3, "big") + bytes(size)


def with_video(pcm: bytes, container: str) -> bytes:
    """Opus of 16-bit samples at 48 kHz beside a video of noise, whose pictures are larger than audio ever is."""
    file, rng = io.BytesIO(), np.random.default_rng(4)
    with av.open(file, "w", format=container) as output:
        audio: Any = output.add_stream("libopus", rate=48_000)
        audio.layout = "mono"
        video: Any = output.add_stream("libvpx", rate=25)
        video.width, video.height, video.pix_fmt = 640, 480, "yuv420p"
        video.bit_rate = 80_000_000
        video.options = {"qmin": "0", "qmax": "4", "deadline": "realtime"}
        for number in range(3):
            pixels = rng.integers(0, 256, (720, 640), dtype=np.uint8)
            picture = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
            picture.pts = number
            output.mux(video.encode(picture))
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = 48_000
        output.mux(audio.encode(frame))
        for stream in (video, audio):
            output.mux(stream.encode(None))
    return file.getvalue()

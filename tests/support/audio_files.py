"""Files as programs write them, and as they leave them."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import soundfile

UNFINISHED = (0, 0xFFFFFFFF, 0x7FFFFFFF)
"""Sizes in headers that nobody came back to."""


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a RIFF file."""
    return struct.pack("<4sI", name, len(content)) + content + bytes(len(content) % 2)


LIST = chunk(b"LIST", b"INFOISFT\x0e\0\0\0Lavf60.16.100\0")


def wav(
    pcm: bytes,
    *,
    size: int | None = None,
    riff: int = 0,
    rate: int = 16_000,
    channels: int = 1,
    kind: int = 1,
    bits: int = 16,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A WAV file, with the sizes that its header should say, and chunks before and behind its audio."""
    block = channels * bits // 8
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, kind, channels, rate, rate * block, block, bits)
    data = struct.pack("<4sI", b"data", len(pcm) if size is None else size) + pcm
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + fmt + before + data + bytes(len(pcm) % 2) + after


class _Written(soundfile.SoundFile):  # type: ignore[misc]  # untyped base
    """A file that nobody looks for their place in, which some codecs do not know."""

    def seekable(self) -> bool:
        return False


def written(samples: np.ndarray[Any, Any], form: str, subtype: str, rate: int = 16_000, **more: Any) -> bytes:
    """A file as libsndfile writes it."""
    file = io.BytesIO()
    if samples.dtype == np.int16 and subtype in ("FLOAT", "DOUBLE"):
        # libsndfile would write the integers themselves.
        samples = samples / 32768
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with _Written(file, "w", rate, channels, subtype, format=form, **more) as out:
        out.write(samples)
    return file.getvalue()

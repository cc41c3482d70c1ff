"""Cuts 16-bit mono audio into packets and sends them when a live speaker would.

Standard library only: everything that sends audio can use it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator

BYTES_PER_SAMPLE = 2


def packet_samples(rate: int, ms: float) -> int:
    """Counts the samples in `ms` of audio at `rate` Hz, at least one."""
    return max(1, round(rate * ms / 1000))


def packet_bytes(rate: int, ms: float) -> int:
    """Counts the bytes of `ms` of 16-bit mono audio at `rate` Hz, whole samples and at least one."""
    return packet_samples(rate, ms) * BYTES_PER_SAMPLE


def packets(pcm: bytes, rate: int, ms: float) -> Iterator[bytes]:
    """Cuts audio into packets of `ms`; the last one may be shorter."""
    size = packet_bytes(rate, ms)
    for start in range(0, len(pcm), size):
        yield pcm[start : start + size]


def duration_s(pcm: bytes, rate: int) -> float:
    """Gives the length of 16-bit mono audio in seconds."""
    return len(pcm) / (BYTES_PER_SAMPLE * rate)


def completing_packet(audio_ms: float, packet_ms: float) -> int:
    """Gives the index of the packet that holds the last sample of the first `audio_ms`; -1 for no audio.

    The latency of a result counts from the moment this packet was sent.
    """
    return math.ceil(audio_ms / packet_ms) - 1


class Pacer:
    """Keeps a sender at the pace of a live speaker.

    Packet n is due when its last sample would have been spoken: at start + (n + 1) periods. Deadlines are absolute,
    so that a late wake-up makes one packet late and shifts none of those after it.
    """

    def __init__(self, start: float | None = None) -> None:
        """`start` on the clock of `time.monotonic`; now if not given."""
        self._due = time.monotonic() if start is None else start

    @property
    def due(self) -> float:
        """Tells when the packet last waited for was due, on the clock of `time.monotonic`."""
        return self._due

    async def wait(self, seconds: float) -> None:
        """Waits until `seconds` of audio more than so far would have been spoken; at once when late."""
        self._due += seconds
        delay = self._due - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)

"""Holds what the streams of the load generator send, and what each of them heard."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from clients.pacing import completing_packet, duration_s, packet_bytes, packets

RATE = 16_000


def noise(seconds: float = 10.0, seed: int = 0) -> bytes:
    """Makes bursts of noise with pauses, 16-bit mono at `RATE`: work for a server when no recording is at hand."""
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.random(int(seconds * 2)) < 0.7, RATE // 2)
    pcm: bytes = (rng.uniform(-0.3, 0.3, loud.size) * loud * 32767).astype("<i2").tobytes()
    return pcm


@dataclass(frozen=True, slots=True)
class Plan:
    """What every stream sends.

    Attributes:
        packets: 16-bit mono audio in packets of `packet_ms`, all of them whole, sent round and round.
        seconds: how long a stream sends.
        finalize_every_s: how often it asks for a final on its way; 0 for never.
        realtime: paced, or as fast as the service takes it.
    """

    packets: tuple[bytes, ...]
    packet_ms: float
    seconds: float
    finalize_every_s: float = 0.0
    realtime: bool = True

    @classmethod
    def of(
        cls,
        pcm: bytes,
        packet_ms: float,
        seconds: float,
        *,
        finalize_every_s: float = 0.0,
        realtime: bool = True,
    ) -> Self:
        """Plans to send this 16-bit mono audio, at `RATE`, in packets of whole samples.

        Silence fills the last packet: each is paced and counted as a whole one.
        """
        size = packet_bytes(RATE, packet_ms)
        whole = pcm + bytes(-len(pcm) % size)
        exact_ms = 1000 * duration_s(whole[:size], RATE)
        return cls(tuple(packets(whole, RATE, packet_ms)), exact_ms, seconds, finalize_every_s, realtime)

    @property
    def count(self) -> int:
        """How many packets a stream sends."""
        return max(1, round(1000 * self.seconds / self.packet_ms))

    @property
    def finalize_every(self) -> int:
        """How many packets lie between two finalize requests; 0 for none."""
        return round(1000 * self.finalize_every_s / self.packet_ms)


@dataclass(slots=True)
class Heard:
    """What one stream sent and heard; times in seconds.

    Attributes:
        outcome: "ok", or the code of the error.
        interims: (seconds into the stream, latency) of each interim.
        asked: when finals were asked for: by finalize, and by half-close at the end.
        finals: from asking to its final, for those that came.
        late: how late each packet was sent; what the generator itself could not keep.
        bytes: of audio sent.
    """

    outcome: str = ""
    detail: str = ""
    started: float = 0.0
    sent: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    interims: list[tuple[float, float]] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    finals: list[float] = field(default_factory=list)
    text: str = ""
    bytes: int = 0

    def interim(self, audio_ms: float, packet_ms: float) -> None:
        """Notes an interim that came just now and takes `audio_ms` of audio into account."""
        now = time.monotonic()
        index = completing_packet(audio_ms, packet_ms)
        if 0 <= index < len(self.sent):
            self.interims.append((now - self.started, now - self.sent[index]))

    def final(self, text: str, *, asked_for: bool = True) -> None:
        """Notes a final that came just now; one at an endpoint was not asked for."""
        self.text += text + " "
        if asked_for and len(self.finals) < len(self.asked):
            self.finals.append(time.monotonic() - self.asked[len(self.finals)])

"""Puts silence in place of audio that a client does not send, where its stream asks for it. Lives on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asr_service.core.values import Encoding, StreamConfig
from asr_service.sessions.gap_watch import GapWatch
from asr_service.sessions.multichannel import Feed, sample_bytes

# Looks while audio flows, over the time after which a gap counts; and seconds between looks in a gap.
_LOOKS = 4
_GAP_LOOK_S = 0.1
# A look that comes so much later than it should: the event loop was busy, and packets may wait to be read.
_LATE_S = 0.05
_SILENCE = {
    Encoding.LINEAR16: b"\0\0",
    Encoding.MULAW: b"\xff",
    Encoding.ALAW: b"\xd5",
    Encoding.FLOAT32: bytes(4),
}


class GapFiller:
    """Looks at a stream now and then, so that its packets cost nothing more; see `GapWatch`.

    Args:
        feed: of the stream.
        config: of each of its channels; its `fill_gaps_after_ms` is not 0.
        channels: how many there are.
        received_bytes: gives the bytes of audio received so far.
        held_back: gives whether the client is made to wait, and so is quiet by our doing.
    """

    def __init__(
        self,
        feed: Feed,
        config: StreamConfig,
        channels: int,
        received_bytes: Callable[[], int],
        held_back: Callable[[], bool],
    ) -> None:
        self._feed = feed
        self._rate = config.sample_rate
        self._bytes_per_s = config.sample_rate * channels * sample_bytes(config.encoding)
        self._silence = _SILENCE[config.encoding]
        self._received_bytes = received_bytes
        self._held_back = held_back
        after_s = config.fill_gaps_after_ms / 1000
        self._flow_look_s = after_s / _LOOKS
        self._watch = GapWatch(after_s)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._schedule(self._flow_look_s)

    def stop(self) -> None:
        """Looks no more: the client's input has ended, or the call has."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        blind = self._held_back() or now - self._due > _LATE_S
        missing_s = self._watch.look(self._received_bytes() / self._bytes_per_s, now, blind=blind)
        samples = int(missing_s * self._rate)
        if samples and self._feed.add_silence(samples * self._silence):
            self._watch.fill(samples / self._rate)
        self._schedule(_GAP_LOOK_S if self._watch.in_gap else self._flow_look_s)

"""Tells the log how many streams the machine sustains, where that is news."""

from __future__ import annotations

import logging

from asr_service.engine.capacity import Capacity

log = logging.getLogger(__name__)

NEWS = 2
"""A number is news once it is so many times what was told last, or the reverse."""


class CapacityNews:
    """Remembers what the log was told last."""

    def __init__(self) -> None:
        self._told = 0

    def take(self, capacity: Capacity) -> None:
        """Takes what the machine sustains now; logs it if that is news."""
        told, now = self._told, capacity.streams
        if told and max(told, now) < NEWS * min(told, now):
            return
        self._told = now
        steps = ", ".join(f"{rows}: {1000 * took:.1f} ms" for rows, took in capacity.timings)
        before = f", {told} before" if told else ""
        log.info("measured: this machine sustains %d live streams%s (steps of %s)", now, before, steps)
        if not capacity.enough:
            log.warning(
                "one stream alone takes longer than its audio: words will come late; give the service more of the "
                "machine, a faster device, a longer look-ahead (ASR_ATT_CTX) or ASR_DECODER=ctc"
            )

"""Lets admitted calls finish, for so long; then ends them."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from asr_service.core.errors import AsrError
from asr_service.sessions.admission import Admission

log = logging.getLogger(__name__)

LAST_FINALS_S = 2.0
"""How long streams that are ended have for their last finals: it comes on top of the time of the drain."""


async def drain(admission: Admission, limit_s: float, error: AsrError) -> None:
    """Waits until no admitted call is left or the time is over. New ones are to be refused by then.

    Args:
        admission: knows the calls and their streams.
        limit_s: the time, in seconds.
        error: with which streams are ended that are left then.
    """
    try:
        async with asyncio.timeout(limit_s):
            await admission.drained()
    except TimeoutError:
        log.warning("%d streams did not end in time and are ended now", admission.active)
        admission.end_all(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_FINALS_S):
                await admission.drained()

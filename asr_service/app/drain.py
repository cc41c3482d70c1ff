"""Lets admitted calls finish, for so long."""

from __future__ import annotations

import asyncio
import logging

from asr_service.sessions.admission import Admission
from asr_service.sessions.registry import SessionRegistry

log = logging.getLogger(__name__)


async def drain(admission: Admission, registry: SessionRegistry, limit_s: float) -> None:
    """Waits until no admitted call is left or the time is over. New ones are to be refused by then."""
    try:
        async with asyncio.timeout(limit_s):
            await admission.drained()
    except TimeoutError:
        log.warning("%d streams did not end in time and are ended now", registry.active)

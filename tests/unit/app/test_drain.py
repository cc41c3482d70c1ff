from __future__ import annotations

import asyncio
import logging

import pytest

from asr_service.app.drain import drain
from asr_service.core.errors import Unavailable
from asr_service.core.values import StreamConfig
from asr_service.sessions.admission import Admission
from tests.support.desk import Desk, admission_to

STOPPED = Unavailable("the service has stopped")


@pytest.fixture
async def admission() -> Admission:
    admission = admission_to(Desk())
    await admission.admit(StreamConfig("test"))
    return admission


async def test_a_drain_ends_with_the_last_call(
    admission: Admission, caplog: pytest.LogCaptureFixture
) -> None:
    draining = asyncio.ensure_future(drain(admission, 3600, STOPPED))
    await asyncio.sleep(0)
    assert not draining.done()
    admission.leave()
    await draining
    assert not caplog.records


async def test_a_drain_ends_with_its_time(admission: Admission, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await drain(admission, 0, STOPPED)
    assert "1 streams did not end in time" in caplog.text

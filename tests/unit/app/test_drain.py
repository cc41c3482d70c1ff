from __future__ import annotations

import asyncio
import logging

import pytest

from asr_service.app.drain import drain
from asr_service.core.errors import Unavailable
from asr_service.core.values import StreamConfig
from asr_service.observability.metrics import Metrics
from asr_service.sessions.admission import Admission
from asr_service.sessions.registry import SessionRegistry

STOPPED = Unavailable("the service has stopped")


@pytest.fixture
def admission() -> Admission:
    registry = SessionRegistry(lambda _: None, max_streams=2, inbox_bytes=lambda _: 1_000)
    admission = Admission(registry, Metrics(), idle_timeout_s=300, max_stream_s=0)
    admission.refusal = None
    admission.admit(StreamConfig("test"))
    return admission


async def test_a_drain_ends_with_the_last_call(
    admission: Admission, caplog: pytest.LogCaptureFixture
) -> None:
    draining = asyncio.ensure_future(drain(admission, admission.registry, 3600, STOPPED))
    await asyncio.sleep(0)
    assert not draining.done()
    admission.leave()
    await draining
    assert not caplog.records


async def test_a_drain_ends_with_its_time(admission: Admission, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await drain(admission, admission.registry, 0, STOPPED)
    assert "1 streams did not end in time" in caplog.text

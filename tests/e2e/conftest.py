"""Service processes shared by the tests that leave them as they found them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc.aio
import pytest
from asr.v1 import asr_pb2_grpc

from tests.support.process import AsrService
from tests.support.rpc import Bystander, Stub, transcribe


@pytest.fixture(scope="session")
def service() -> Iterator[AsrService]:
    """A service with the null model and room for a few streams, which it admits on however busy a machine."""
    with AsrService(ASR_MAX_STREAMS=16, ASR_MAX_LOAD=0) as process:
        yield process


@pytest.fixture
async def stub(service: AsrService) -> AsyncIterator[Stub]:
    """A client of `service`."""
    async with grpc.aio.insecure_channel(service.target) as channel:
        yield asr_pb2_grpc.SpeechServiceStub(channel)


@pytest.fixture
async def bystander(stub: Stub) -> AsyncIterator[Bystander]:
    """A live stream on the same service that the test must not disturb."""
    expected = await transcribe(stub, Bystander.pcm())
    assert expected
    async with Bystander(stub, expected, Bystander.pcm()) as live:
        yield live


@pytest.fixture
def impatient() -> Iterator[AsrService]:
    """A service that waits for half a second where the settings allow no less than a minute."""
    with AsrService(IDLE_TIMEOUT_S=0.5) as process:
        yield process

"""One browser, one service with the bundled model and one bridge for the tests that leave them as they found them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser import chromium
from tests.support.bridge import Bridge
from tests.support.process import AsrService


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here share an event loop, as the browser's driver does; without a browser there is nothing to test."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if chromium.PROGRAM is None and "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="there is no Chromium: apt-get install chromium"))
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def service(compiled: None) -> Iterator[AsrService]:
    """A service that knows the words of the recordings."""
    with AsrService(
        ASR_MODEL="demo", ASR_MAX_STREAMS=8, ASR_MAX_LOAD=0, ASR_FINALIZE_SILENCE_MS=""
    ) as process:
        yield process


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def bridge(service: AsrService) -> AsyncIterator[Bridge]:
    """A bridge to it."""
    with await asyncio.to_thread(Bridge, service.target) as process:
        await process.ready()
        yield process


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A browser with a microphone."""
    async with chromium.browser() as launched:
        yield launched

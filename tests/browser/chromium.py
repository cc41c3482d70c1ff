"""Debian's Chromium, headless, with a recording as its microphone; and the page in it, which must not complain."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, WebSocket, async_playwright, expect

from asr_common.server_process import PATIENCE_S
from testbed.processes import ROOT

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""None where there is no browser; the tests are then skipped, and say so."""
CLIPS = ROOT / "asr_service/assets/clips"
SPOKEN = CLIPS / "clip5.wav"
"""What the microphone hears, once, from Start on."""
INSECURE = "page.test"
"""A name of 127.0.0.1 which, unlike `localhost`, gets no microphone without a certificate."""

_OF_THE_NETWORK = ("net::", "WebSocket connection to", "status of")
"""That a server refused or could not be reached is the page's to explain: the browser's line of it is no complaint."""

expect.set_options(timeout=1000 * PATIENCE_S)


@asynccontextmanager
async def browser(spoken: Path | None = SPOKEN) -> AsyncIterator[Browser]:
    """A browser; with None there is no microphone."""
    options = [f"--host-resolver-rules=MAP {INSECURE} 127.0.0.1"]
    if spoken is not None:
        options += [
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={spoken}%noloop",
        ]
    async with async_playwright() as driver:
        chromium = await driver.chromium.launch(executable_path=PROGRAM, args=options)
        yield chromium
        await chromium.close()


@asynccontextmanager
async def visit(
    chromium: Browser, url: str, *, microphone: bool = True, script: str = "", **look: Any
) -> AsyncIterator[Visit]:
    """A visit to the page.

    Args:
        chromium: the browser.
        url: of the page.
        microphone: whether the visitor lets it have one.
        script: runs before the page's own.
        look: size, colours and so on.
    """
    context = await chromium.new_context(**look)
    context.set_default_timeout(1000 * PATIENCE_S)
    if script:
        await context.add_init_script(script)
    if microphone:
        await context.grant_permissions(["microphone"])
    page = await context.new_page()
    visitor = Visit(page)
    await page.goto(url)
    yield visitor
    await context.close()
    assert visitor.complaints == [], visitor.complaints


class Visit:
    """The page as a visitor sees it.

    Attributes:
        complaints: what the browser itself complained about: errors of scripts, and whatever the policy kept out.
        sent: the messages that the page has sent, of each of its connections.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)
        self.sent: list[list[str | bytes]] = []
        page.on("websocket", self._follow)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in _OF_THE_NETWORK):
            self.complaints.append(message.text)

    def _follow(self, socket: WebSocket) -> None:
        sent: list[str | bytes] = []
        self.sent.append(sent)
        # In a lambda: Playwright cannot mark a builtin.
        socket.on("framesent", lambda message: sent.append(message))

    def at(self, name: str) -> Locator:
        """The element of that id."""
        return self.page.locator(f"#{name}")

    @property
    def paragraphs(self) -> Locator:
        """The finals that are shown, their times left out."""
        return self.page.locator("#finals p > span")

    async def is_in(self, *states: str) -> None:
        """Returns once the page is in one of the states."""
        await expect(
            self.page.locator(", ".join(f"body[data-state={state}]" for state in states))
        ).to_be_visible()

    async def hears(self) -> None:
        """Returns once there are words, of an interim or of a final."""
        await expect(self.page.locator("#finals p, #interim:not(:empty)").first).to_be_visible()

    async def open_recording(self, path: Path) -> None:
        """Chooses a file and waits until it is decoded."""
        await self.at("file").set_input_files(path)
        await expect(self.at("recording")).to_be_visible()

    async def complains(self, *words: str) -> None:
        """Returns once the page shows a message with these words."""
        for some in words:
            await expect(self.at("notice-text")).to_contain_text(some)

    async def is_as_wide_as_the_screen(self) -> bool:
        """Whether nothing has to be scrolled sideways."""
        wide: list[int] = await self.page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        return wide[0] <= wide[1]

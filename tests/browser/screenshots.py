"""Makes the pictures of the page in docs/images, with the bundled model: python -m tests.browser.screenshots"""

from __future__ import annotations

import asyncio
import tempfile
import wave
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, expect

from testbed.processes import ROOT
from tests.browser.chromium import CLIPS, Visit, browser, visit
from tests.support.bridge import Bridge
from tests.support.process import AsrService

FOLDER = ROOT / "docs/images"
DESK: dict[str, Any] = {"viewport": {"width": 860, "height": 560}, "device_scale_factor": 1.5}
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 640},
    "device_scale_factor": 1.5,
    "is_mobile": True,
    "has_touch": True,
    "color_scheme": "dark",
}


async def fill(page: Visit, *clips: str) -> None:
    """Has recordings read into the transcript."""
    for count, clip in enumerate(clips, start=1):
        await page.open_recording(CLIPS / clip)
        await page.at("recording-send").click()
        await expect(page.paragraphs).to_have_count(count)
        await page.is_in("idle")


def speak(path: Path, *clips: str) -> None:
    """Writes the clips into one file, with pauses between them."""
    with wave.open(str(path), "wb") as spoken:
        for clip in clips:
            with wave.open(str(CLIPS / clip)) as wav:
                if clip == clips[0]:
                    spoken.setparams(wav.getparams())
                spoken.writeframes(wav.readframes(wav.getnframes()) + bytes(2 * wav.getframerate()))


async def listening(chromium: Browser, url: str) -> None:
    async with visit(chromium, url, **DESK) as page:
        await fill(page, "clip1.wav", "clip3.wav", "clip6.wav")
        await page.at("start").click()
        await page.page.locator(".word", has_text="table").hover()
        await expect(page.paragraphs).to_have_count(4)
        await expect(page.at("interim")).to_contain_text("sixty two")
        await page.page.screenshot(path=FOLDER / "page.png")


async def on_a_phone(chromium: Browser, url: str) -> None:
    async with visit(chromium, url, **PHONE) as page:
        await fill(page, "clip2.wav")
        await page.at("start").click()
        await expect(page.paragraphs).to_have_count(2)
        await expect(page.at("interim")).to_contain_text("sixty two pounds")
        await page.page.screenshot(path=FOLDER / "page-phone.png")


async def main() -> None:
    """Makes all of them."""
    settings: dict[str, Any] = {"ASR_MODEL": "demo", "ASR_MAX_LOAD": 0, "ASR_FINALIZE_SILENCE_MS": ""}
    with (
        tempfile.TemporaryDirectory() as folder,
        AsrService(**settings) as service,
        Bridge(service.target) as bridge,
    ):
        await bridge.ready()
        url = f"http://localhost:{bridge.port}/"
        spoken = Path(folder, "spoken.wav")
        speak(spoken, "clip5.wav", "clip4.wav")
        async with browser(spoken) as chromium:
            await listening(chromium, url)
            await on_a_phone(chromium, url)


if __name__ == "__main__":
    asyncio.run(main())

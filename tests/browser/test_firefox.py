"""The page in Firefox: its microphone, which does not convert rates as Chromium's does, and a recording."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.browser.chromium import CLIPS
from tests.browser.firefox import MISSING, firefox
from tests.support.bridge import Bridge

SAID = {
    entry["file"]: entry["text"]
    for entry in map(json.loads, (CLIPS / "clips.jsonl").read_text().splitlines())
}


@pytest.mark.skipif(
    bool(MISSING), reason=f"apt-get install firefox-esr pulseaudio pulseaudio-utils: {MISSING}"
)
async def test_somebody_speaks_and_opens_a_recording(bridge: Bridge, tmp_path: Path) -> None:
    async with firefox(tmp_path) as window:
        await window.ask("WebDriver:Navigate", url=f"http://localhost:{bridge.port}/")
        await window.shows("served", "demo, 80 ms of look-ahead")
        await window.click("start")
        await window.shows("status", "Listening")
        await window.speak(CLIPS / "clip5.wav")
        await window.shows("finals", SAID["clip5.wav"])
        await window.shows("latency", "ms from speech to word")
        await window.click("start")
        await window.shows("status", "Stopped")
        await window.choose("file", CLIPS / "clip2.wav")
        await window.shows("recording-name", "clip2.wav")
        await window.click("recording-send")
        await window.shows("finals", SAID["clip2.wav"])
        assert await window.text("notice-text") == ""

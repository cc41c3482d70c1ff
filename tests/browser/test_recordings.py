"""Recordings opened in the page: at once, at their pace, dropped; and what may be taken out of it."""

from __future__ import annotations

import base64
import json
import wave
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, expect
from websockets.asyncio.client import connect

from tests.browser.chromium import CLIPS, Visit, visit
from tests.support.bridge import Bridge

FIRST, SECOND = CLIPS / "clip2.wav", CLIPS / "clip3.wav"


def address(bridge: Bridge) -> str:
    return f"http://localhost:{bridge.port}/"


async def from_the_bridge(bridge: Bridge, recording: Path) -> dict[str, Any]:
    """The one final of a recording that another client sends."""
    with wave.open(str(recording)) as wav:
        rate, pcm = wav.getframerate(), wav.readframes(wav.getnframes())
    async with connect(bridge.url, compression=None) as socket:
        await socket.send(json.dumps({"op": "init", "sid": "s", "sr": rate, "interim": False, "words": True}))
        await socket.send(pcm)
        await socket.send('{"op":"close"}')
        final: dict[str, Any] = json.loads(await socket.recv())
    return final


async def saved(page: Visit, button: str) -> tuple[str, str]:
    """Name and text of what a button downloads."""
    async with page.page.expect_download() as downloading:
        await page.at(button).click()
    download = await downloading.value
    return download.suggested_filename, (await download.path()).read_text(encoding="utf-8")


async def test_a_recording_sent_at_once_has_the_words_that_any_client_gets(
    browser: Browser, bridge: Bridge
) -> None:
    finals = [await from_the_bridge(bridge, recording) for recording in (FIRST, SECOND)]
    async with visit(browser, address(bridge)) as page:
        for count, recording in enumerate((FIRST, SECOND), start=1):
            await page.open_recording(recording)
            await expect(page.at("recording-name")).to_have_text(recording.name)
            await page.at("recording-send").click()
            await expect(page.paragraphs).to_have_count(count)
            await page.is_in("idle")
        assert await page.paragraphs.all_inner_texts() == [final["text"] for final in finals]

        name, text = await saved(page, "save-text")
        assert (name, text) == ("transcript.txt", "".join(f"{final['text']}\n" for final in finals))
        name, text = await saved(page, "save-json")
        segments = json.loads(text)["segments"]
        assert name == "transcript.json"
        assert [segment["text"] for segment in segments] == [final["text"] for final in finals]
        assert segments[0]["words"] == finals[0]["words"]
        # The second begins where the first has ended.
        with wave.open(str(FIRST)) as wav:
            first_ms = 1000 * wav.getnframes() / wav.getframerate()
        shifts = {
            round(word["start_ms"] - alone["start_ms"] - first_ms)
            for word, alone in zip(segments[1]["words"], finals[1]["words"], strict=True)
        }
        assert shifts <= {-1, 0, 1}
        name, text = await saved(page, "save-srt")
        assert name == "transcript.srt" and text.startswith("1\n00:00:0")
        captions = [block.split("\n", 2) for block in text.strip().split("\n\n")]
        assert " ".join(" ".join(lines.split()) for _, _, lines in captions) == " ".join(
            final["text"] for final in finals
        )

        await page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await page.at("copy").click()
        await expect(page.at("status")).to_have_text("Copied.")
        copied = await page.page.evaluate("navigator.clipboard.readText()")
        assert copied == "".join(f"{final['text']}\n" for final in finals)
        await page.at("clear").click()
        await expect(page.at("tools")).to_be_hidden()
        await expect(page.at("welcome")).to_be_visible()


async def test_a_recording_that_is_dropped_is_played_at_its_pace(browser: Browser, bridge: Bridge) -> None:
    final = await from_the_bridge(bridge, SECOND)
    async with visit(browser, address(bridge)) as page:
        data = await page.page.evaluate_handle(
            """async ([name, base64]) => {
                const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
                const dropped = new DataTransfer();
                dropped.items.add(new File([bytes], name, { type: "audio/wav" }));
                return dropped;
            }""",
            [SECOND.name, base64.b64encode(SECOND.read_bytes()).decode()],
        )
        await page.page.dispatch_event("body", "dragover", {"dataTransfer": data})
        await expect(page.at("drop")).to_be_visible()
        await page.page.dispatch_event("body", "drop", {"dataTransfer": data})
        await expect(page.at("drop")).to_be_hidden()
        await expect(page.at("recording-play")).to_be_focused()
        await page.page.keyboard.press("Enter")
        await expect(page.at("interim")).not_to_be_empty()
        await expect(page.at("status")).to_have_text("Playing the recording.")
        await page.is_in("idle")
        assert await page.paragraphs.all_inner_texts() == [final["text"]]
        await expect(page.at("latency")).to_contain_text("from speech to word")


async def test_what_is_no_recording_is_refused_by_name(
    browser: Browser, bridge: Bridge, tmp_path: Path
) -> None:
    text = tmp_path / "letter.wav"
    text.write_text("Dear Sir")
    async with visit(browser, address(bridge)) as page:
        await page.at("file").set_input_files(text)
        await page.complains("cannot decode letter.wav")
        await page.at("notice-close").click()
        await expect(page.at("notice")).to_be_hidden()


async def test_captions_are_short_and_end_at_pauses(browser: Browser, bridge: Bridge) -> None:
    """The page's own module, on words that no recording here has."""
    words = [
        {"word": f"word{n}", "start_ms": 500 * n + 5000 * (n > 19), "end_ms": 500 * n + 400 + 5000 * (n > 19)}
        for n in range(24)
    ]
    whole = {"text": "whole", "start_ms": 3_723_004, "end_ms": 3_723_504, "words": []}
    segment = {
        "text": " ".join(str(word["word"]) for word in words),
        "start_ms": 0,
        "end_ms": 16_900,
        "words": words,
    }
    async with visit(browser, address(bridge)) as page:
        srt: str = await page.page.evaluate(
            "async (segments) => (await import('./captions.js')).asSrt(segments)", [segment, whole]
        )
    blocks = [block.split("\n") for block in srt.strip().split("\n\n")]
    assert [number for number, *_ in blocks] == ["1", "2", "3", "4"]
    for _, _, *lines in blocks:
        assert len(lines) <= 2 and max(map(len, lines)) <= 42
    assert [len(" ".join(lines).split()) for _, _, *lines in blocks] == [13, 7, 4, 1]
    assert blocks[0][1] == "00:00:00,000 --> 00:00:06,400"
    assert blocks[2][1].startswith("00:00:15,000")
    assert blocks[3][1:] == ["01:02:03,004 --> 01:02:04,004", "whole"]

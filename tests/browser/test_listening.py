"""Somebody speaks into the page: a real browser, the real bridge and service, the bundled model."""

from __future__ import annotations

import asyncio
import json
import re
import signal

import pytest
from playwright.async_api import Browser, expect

from clients.demo.view import word_errors
from tests.browser.chromium import CLIPS, SPOKEN, Visit, visit
from tests.support.bridge import Bridge, talk
from tests.support.process import AsrService

SAID = {
    entry["file"]: entry["text"]
    for line in (CLIPS / "clips.jsonl").read_text().splitlines()
    for entry in (json.loads(line),)
}[SPOKEN.name]


def address(bridge: Bridge) -> str:
    return f"http://localhost:{bridge.port}/"


async def heard(page: Visit) -> str:
    """All finals that are shown."""
    return " ".join(await page.paragraphs.all_inner_texts())


async def test_words_come_while_they_are_spoken_and_a_final_follows_stop(
    browser: Browser, bridge: Bridge
) -> None:
    async with visit(browser, address(bridge)) as page:
        await expect(page.at("served")).to_have_text("demo, 80 ms of look-ahead")
        await page.at("start").click()
        # A busy machine's microphone loses samples: which words are heard is not asked for.
        await expect(page.at("interim")).to_have_text(re.compile(r"\w+ \w+"))
        assert await page.page.title() == "● Live transcript"
        await expect(page.at("interim")).to_have_text(re.compile(r"\w+( \w+){3}"))
        # In the middle of an utterance.
        await page.at("start").click()
        await page.is_in("idle")
        await expect(page.at("interim")).to_be_empty()
        text = await heard(page)
        await expect(page.at("latency")).to_have_text(re.compile(r"^\d+ ms from speech to word$"))
    (sent,) = page.sent
    again = await talk(bridge, sent)
    assert text == " ".join(final["text"] for final in again.of("final") if final["text"])


async def test_a_pause_ends_a_paragraph_and_each_word_tells_about_itself(
    browser: Browser, bridge: Bridge
) -> None:
    async with visit(browser, address(bridge)) as page:
        await page.at("start").click()
        await page.page.locator(".word").nth(2).hover()
        await page.is_in("listening")
        await expect(page.at("tip")).to_have_text(re.compile(r"^0:0\d\.\d to 0:0\d\.\d, \d+ % sure$"))
        await page.page.mouse.move(0, 0)
        await expect(page.at("tip")).to_be_hidden()
        await page.at("start").click()
        await page.is_in("idle")
        await expect(page.at("interim")).to_be_empty()


WATCHED = """
const give = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
window.asked = new Promise((resolve) => (window.answer = resolve));
navigator.mediaDevices.getUserMedia = async (wish) => {
    if (location.hash === "#slow") await window.asked;
    window.microphone = await give(wish);
    return window.microphone;
};
"""
"""Notes which microphone the browser has given, and gives it late where the address says so."""
UNTIL_OFF = """async () => {
    const turn = () => new Promise((done) => setTimeout(done));
    while (!window.microphone?.getTracks().every((track) => track.readyState === "ended")) await turn();
}"""


async def test_the_microphone_is_never_left_on(browser: Browser, bridge: Bridge) -> None:
    async with visit(browser, address(bridge), script=WATCHED) as page:
        for _ in range(2):
            await page.at("start").click()
            await page.hears()
            assert await page.page.evaluate("window.microphone.active")
            await page.at("start").click()
            await page.is_in("idle")
            await page.page.evaluate(UNTIL_OFF)
            await page.at("clear").click()
        # Refused by the service.
        await page.page.locator("summary").click()
        await page.at("phrases").fill("66")
        await page.at("start").click()
        await page.complains("cannot write")
        await page.page.evaluate(UNTIL_OFF)
    async with visit(browser, address(bridge) + "#slow", script=WATCHED) as page:
        # Given when nobody wants it any more.
        await page.at("start").click()
        await page.is_in("starting")
        await page.at("start").click()
        await page.is_in("idle")
        await page.page.evaluate("window.answer()")
        await page.page.evaluate(UNTIL_OFF)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_no_word_is_lost_or_doubled_when_the_bridge_starts_again(
    browser: Browser, service: AsrService, how: signal.Signals
) -> None:
    with await asyncio.to_thread(Bridge, service.target, ASR_DRAIN_S=0) as first:
        await first.ready()
        async with visit(browser, address(first)) as page:
            await page.at("start").click()
            await expect(page.at("interim")).to_contain_text("me to")
            first.signal(how)
            await page.is_in("reconnecting")
            await asyncio.to_thread(first.wait)
            with await asyncio.to_thread(Bridge, service.target, ASR_PORT=first.port):
                await page.is_in("listening")
                # Of which the last word may be in a paragraph of its own, as the machine is busy.
                await expect(page.paragraphs.filter(has_text=SAID.split()[-1])).to_be_visible()
                await page.at("start").click()
                await page.is_in("idle")
                text = await heard(page)
                assert word_errors(SAID, text) <= 1, text

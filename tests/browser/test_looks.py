"""How the page looks and is worked: narrow screens, both colour schemes, the keyboard, what a screen reader is told."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.browser.chromium import INSECURE, SPOKEN, visit
from tests.support.bridge import Bridge

NARROW = {"width": 320, "height": 640}
CONTRAST = """() => {
    const paper = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (color) => {
        paper.clearRect(0, 0, 1, 1);
        paper.fillStyle = color;
        paper.fillRect(0, 0, 1, 1);
        return [...paper.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => {
        const linear = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    };
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const color = rgb(getComputedStyle(element).backgroundColor);
            if (color[3] === 255) return color;
        }
        return [255, 255, 255];
    };
    const low = [];
    for (const element of document.body.querySelectorAll("*")) {
        const text = [...element.childNodes].filter((n) => n.nodeType === 3 && n.data.trim()).map((n) => n.data.trim());
        if (!text.length || !element.checkVisibility({ opacityProperty: true })) continue;
        const [a, b] = [luminance(rgb(getComputedStyle(element).color)), luminance(behind(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.push(`${text[0]}: ${ratio.toFixed(2)}`);
    }
    return low;
}"""
"""Texts that stand out from what is behind them by less than 4.5 to 1 (WCAG AA)."""


def address(bridge: Bridge, host: str = "localhost") -> str:
    return f"http://{host}:{bridge.port}/"


@pytest.mark.parametrize("colors", ["light", "dark"])
async def test_a_narrow_screen_in_both_colours(browser: Browser, bridge: Bridge, colors: str) -> None:
    look: dict[str, Any] = {"viewport": NARROW, "color_scheme": colors, "has_touch": True, "is_mobile": True}
    async with visit(browser, address(bridge, INSECURE), microphone=False, **look) as page:
        # The longest message there is, and everything opened.
        await page.complains("ASR_BRIDGE_TLS_KEY")
        await page.page.locator("summary").tap()
        await page.open_recording(SPOKEN)
        assert await page.is_as_wide_as_the_screen()
        assert await page.page.evaluate(CONTRAST) == []
        await page.at("recording-send").tap()
        await expect(page.paragraphs).to_have_count(1)
        await page.is_in("idle")
        assert await page.is_as_wide_as_the_screen()
        assert await page.page.evaluate(CONTRAST) == []
        background = await page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        lightness = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(",")))
        assert lightness > 700 if colors == "light" else lightness < 90
        # A finger is enough to ask a word about itself.
        await page.page.locator(".word").first.tap()
        await expect(page.at("tip")).to_contain_text("% sure")


async def test_the_keyboard_is_enough(browser: Browser, bridge: Bridge) -> None:
    async with visit(browser, address(bridge), viewport=NARROW) as page:
        press = page.page.keyboard.press
        await page.at("start").focus()
        await press("Enter")
        await expect(page.at("interim")).to_contain_text("me to")
        assert await page.is_as_wide_as_the_screen()
        assert await page.page.evaluate(CONTRAST) == []
        await press("Space")
        await page.is_in("idle")
        await press("Shift+Tab")
        for button in ("clear", "save-json", "save-srt", "save-text", "copy"):
            await expect(page.at(button)).to_be_focused()
            await press("Shift+Tab")
        words = page.page.locator(".word")
        await expect(words.nth(0)).to_be_focused()
        await press("ArrowRight")
        await expect(words.nth(1)).to_be_focused()
        await expect(page.at("tip")).to_be_visible()
        await expect(words.nth(1)).to_have_attribute("aria-describedby", "tip")
        await press("Shift+Tab")
        await expect(page.page.locator("summary")).to_be_focused()


async def test_what_a_screen_reader_is_told(browser: Browser, bridge: Bridge) -> None:
    async with visit(browser, address(bridge)) as page:
        await page.page.locator("summary").click()
        told = await page.page.locator("body").aria_snapshot()
        for line in (
            '- heading "Live transcript" [level=1]',
            '- textbox "Names and words to listen for"',
            '- combobox "A pause ends a paragraph after"',
            '- log "What was said"',
            '- button "Start"',
            '- button "Open a recording"',
            "- status: Ready.",
        ):
            assert line in told, told
        # Finals are announced when they come; interims, which change all the time, are not.
        await expect(page.at("finals")).to_have_attribute("aria-live", "polite")
        await expect(page.at("interim")).to_have_attribute("aria-live", "off")
        nameless = await page.page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, textarea")]
                .filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map((e) => e.id)"""
        )
        assert nameless == []

"""What a stream is asked for: phrases, a language, a model with its look-ahead; and what is kept for the next visit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from asr.v1 import asr_pb2
from playwright.async_api import Browser, expect

from tests.browser.chromium import visit
from tests.support.bridge import Bridge, admit, result, scripted_service
from tests.support.process import AsrService


def address(bridge: Bridge) -> str:
    return f"http://localhost:{bridge.port}/"


async def up(target: str) -> Bridge:
    """A bridge that can reach its service."""
    bridge = await asyncio.to_thread(Bridge, target)
    await bridge.ready()
    return bridge


async def test_phrases_that_cannot_be_served_are_pointed_at_and_others_are_kept(
    browser: Browser, bridge: Bridge
) -> None:
    async with visit(browser, address(bridge)) as page:
        await page.page.locator("summary").click()
        await page.at("phrases").fill("patricia watson\nroute 66")
        await page.at("start").click()
        await page.complains("“route 66” has '6', which the model cannot write")
        await page.is_in("idle")
        await expect(page.at("phrases")).to_be_focused()
        await expect(page.at("phrases")).to_have_attribute("aria-invalid", "true")
        await page.at("phrases").fill("patricia watson")
        await page.at("start").click()
        await page.is_in("listening")
        await page.hears()
        await page.at("start").click()
        await page.is_in("idle")
        await page.page.reload()
        await expect(page.at("phrases")).to_have_value("patricia watson")


async def test_a_language_is_chosen_where_the_service_offers_several(browser: Browser) -> None:
    with (
        await asyncio.to_thread(lambda: AsrService(FAULT="languages")) as service,
        await up(service.target) as bridge,
    ):
        async with visit(browser, address(bridge)) as page:
            await page.page.locator("summary").click()
            await expect(page.at("look-ahead")).to_be_hidden()
            offered = await page.at("language").locator("option").all_inner_texts()
            assert offered == [
                "found out by the model",
                "American English (en-US)",
                "German (Germany) (de-DE)",
                "Japanese (Japan) (ja-JP)",
            ]
            await page.at("language").select_option("de-DE")
            await page.at("start").click()
            await page.hears()
            await page.at("start").click()
            await page.is_in("idle")
            assert await page.paragraphs.first.get_attribute("lang") == "de-DE"


async def test_a_model_and_its_look_ahead_are_chosen_where_there_are_several(browser: Browser) -> None:
    asked: asyncio.Queue[asr_pb2.RecognitionConfig] = asyncio.Queue()

    async def recognize(requests: AsyncIterator[asr_pb2.RecognizeRequest], context: Any) -> None:
        asked.put_nowait((await anext(requests)).config)
        await admit(context)
        async for _ in requests:
            pass
        await context.write(result("done", final=True))

    def way(name: str, wait: int, **more: Any) -> asr_pb2.ServedModel:
        return asr_pb2.ServedModel(name=name, look_ahead_ms=wait, **more)

    several = {"takes_language": True, "languages": ["de-DE", "fr-FR"], "default_language_code": "de-DE"}
    served = [way("quick", 80), way("quick", 480), way("polyglot", 560, **several)]
    info = asr_pb2.GetServiceInfoResponse(model="quick", look_ahead_ms=80, served=served)
    async with scripted_service(recognize, info=info) as target:
        with await up(target) as bridge:
            async with visit(browser, address(bridge)) as page:

                async def asks() -> asr_pb2.RecognitionConfig:
                    await page.at("start").click()
                    config = await asked.get()
                    await page.is_in("listening")
                    await page.at("start").click()
                    await page.is_in("idle")
                    return config

                await expect(page.at("served")).to_have_text("quick, 80 ms of look-ahead")
                config = await asks()
                assert (config.model, config.HasField("look_ahead_ms"), config.language_code) == (
                    "",
                    False,
                    "",
                )
                await page.page.locator("summary").click()
                await expect(page.at("language")).to_be_hidden()
                await page.at("look-ahead").select_option("480 ms")
                await expect(page.at("served")).to_have_text("quick, 480 ms of look-ahead")
                config = await asks()
                assert (config.model, config.look_ahead_ms) == ("", 480)
                await page.at("model").select_option("polyglot")
                await expect(page.at("look-ahead")).to_be_hidden()
                await page.at("language").select_option("French (France) (fr-FR)")
                await expect(page.at("served")).to_have_text("polyglot, 560 ms of look-ahead")
                await page.page.reload()
                await expect(page.at("served")).to_have_text("polyglot, 560 ms of look-ahead")
                config = await asks()
                assert (config.model, config.HasField("look_ahead_ms")) == ("polyglot", False)
                assert config.language_code == "fr-FR"

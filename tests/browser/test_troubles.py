"""What goes wrong is told in a sentence that says what to do, and goes on by itself where it can."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

from playwright.async_api import Browser, expect
from websockets.asyncio.client import connect

from asr_service.access.api_keys import new_key
from testbed.processes import free_port
from tests.browser import chromium
from tests.browser.chromium import INSECURE, visit
from tests.support.audio import speechlike
from tests.support.bridge import INIT, Bridge
from tests.support.process import AsrService


def address(bridge: Bridge, host: str = "localhost") -> str:
    return f"http://{host}:{bridge.port}/"


async def up(target: str, **settings: object) -> Bridge:
    """A bridge that can reach its service."""
    bridge = await asyncio.to_thread(lambda: Bridge(target, **settings))
    await bridge.ready()
    return bridge


async def test_a_microphone_that_is_refused_or_not_there(browser: Browser, bridge: Bridge) -> None:
    async with visit(browser, address(bridge), microphone=False) as page:
        await page.at("start").click()
        await page.complains("The microphone was refused. Allow it for this page")
        await page.is_in("idle")
    async with chromium.browser(None) as deaf, visit(deaf, address(bridge)) as page:
        await page.at("start").click()
        await page.complains("No microphone was found. Connect one")
        await page.is_in("idle")


async def test_a_page_over_plain_http_explains_what_is_missing(browser: Browser, bridge: Bridge) -> None:
    async with visit(browser, address(bridge, INSECURE), microphone=False) as page:
        await page.complains(
            f"from http://{INSECURE}:{bridge.port}.",
            f"open http://localhost:{bridge.port}.",
            "ASR_BRIDGE_TLS_CERT",
        )
        # Recordings need no microphone.
        await page.open_recording(chromium.SPOKEN)
        await page.at("recording-send").click()
        await expect(page.paragraphs).to_contain_text(["call martin"])
        await page.at("copy").click()
        await expect(page.at("status")).to_have_text("Copied.")


async def test_a_full_service_is_waited_for(browser: Browser) -> None:
    with (
        await asyncio.to_thread(lambda: AsrService(ASR_MAX_STREAMS=1)) as service,
        await up(service.target) as bridge,
    ):
        async with visit(browser, address(bridge)) as page:
            async with connect(bridge.url) as other:
                await other.send(INIT)
                await other.send(speechlike(1.0))
                await other.recv()
                await page.at("start").click()
                await page.is_in("reconnecting")
                await expect(page.at("status")).to_have_text("All 1 streams are taken.")
                await expect(page.at("countdown")).to_have_text(re.compile(r"Trying again in \d+ s"))
            await page.is_in("listening")
            await page.hears()
            await page.at("start").click()
            await page.is_in("idle")
            await expect(page.paragraphs).not_to_have_count(0)


async def test_a_full_bridge_and_one_without_its_service(browser: Browser) -> None:
    port = free_port()
    with await asyncio.to_thread(Bridge, f"127.0.0.1:{port}", ASR_BRIDGE_MAX_CONNECTIONS=1) as bridge:
        async with visit(browser, address(bridge)) as page:
            async with connect(bridge.url):
                await page.at("start").click()
                await page.is_in("reconnecting")
                await expect(page.at("status")).to_have_text("The server is full.")
            await expect(page.at("status")).to_have_text(
                "The speech service cannot be reached; try again later."
            )
            with await asyncio.to_thread(lambda: AsrService(ASR_GRPC_PORT=port)):
                await page.is_in("listening")
                await page.hears()
                await page.at("start").click()
                await page.is_in("idle")


async def test_stopping_while_nobody_answers(browser: Browser) -> None:
    with await asyncio.to_thread(Bridge, f"127.0.0.1:{free_port()}") as bridge:
        async with visit(browser, address(bridge)) as page:
            await page.at("start").click()
            await page.is_in("reconnecting")
            await page.at("start").click()
            await page.is_in("finishing")
            await expect(page.at("start")).to_have_text("Give up")
            await page.at("start").click()
            await page.is_in("idle")


async def test_an_origin_that_is_not_admitted(browser: Browser, service: AsrService) -> None:
    with await up(service.target, ASR_BRIDGE_ORIGINS="https://app.example.com") as bridge:
        async with visit(browser, address(bridge)) as page:
            await page.at("start").click()
            await page.complains(f"pages from http://localhost:{bridge.port} connect", "ASR_BRIDGE_ORIGINS")
            await page.is_in("idle")


async def test_a_key_is_asked_for_and_used(browser: Browser, tmp_path: Path) -> None:
    key, line = new_key("alice", 1)
    path = tmp_path / "keys"
    path.write_text(line)
    with (
        await asyncio.to_thread(lambda: AsrService(ASR_API_KEYS_FILE=path)) as service,
        await up(service.target) as bridge,
    ):
        async with visit(browser, address(bridge)) as page:
            await expect(page.at("key")).to_be_visible()
            await expect(page.at("served")).to_be_empty()
            await page.at("start").click()
            await page.complains("asks for an API key")
            await expect(page.at("key")).to_be_focused()
            await page.at("key").fill("wrong")
            await page.at("start").click()
            await page.complains("does not know this API key")
            await page.at("key").fill(key)
            await page.page.keyboard.press("Tab")
            await expect(page.at("served")).to_contain_text("null")
            await page.at("start").click()
            await page.hears()
            await expect(page.at("notice")).to_be_hidden()
            await page.at("start").click()
            await page.is_in("idle")
            assert key not in await page.page.evaluate("JSON.stringify([localStorage, sessionStorage])")
        service.signal(signal.SIGTERM)
        assert key not in service.output + bridge.output


# A session of the page's own, whose source has heard for longer than an outage may last.
OUTAGE = """async () => {
    const { Session } = await import("./session.js");
    const { streamUrl } = await import("./service.js");
    const told = [];
    window.told = told;
    const source = {
        isLive: true,
        rate: 8000,
        async open(onPacket) {
            for (let s = 0; s < 75; s++) onPacket(new Int16Array(8000).map((_, i) => 9000 * Math.sin(i * s)));
        },
        async close() {},
    };
    const kept = ["gap", "final", "end"];
    const tell = (name) => (...args) => void (kept.includes(name) && told.push([name, ...args]));
    const on = new Proxy({}, { get: (_, name) => tell(name) });
    window.outage = new Session({
        url: streamUrl(), source, init: { sid: "s", words: true, details: true }, base: 5000, on,
        diagnose: async () => ({ sentence: "away", retryMs: 0 }),
    });
    await window.outage.start();
}"""


async def test_what_an_outage_of_more_than_a_minute_has_cost_is_told(
    browser: Browser, bridge: Bridge
) -> None:
    async with visit(browser, address(bridge)) as page:
        await page.page.evaluate(OUTAGE)
        await page.page.evaluate("window.outage.stop()")
        told = await page.page.evaluate(
            """async () => {
                const turn = () => new Promise((done) => setTimeout(done));
                while (!window.outage.isOver) await turn();
                return window.told;
            }"""
        )
    # The tape holds a minute; what came before that is said to be lost, on the transcript's clock.
    assert [event[1:] for event in told if event[0] == "gap"] == [[15_000, 5000]]
    finals = [event[1] for event in told if event[0] == "final"]
    assert told[-1] == ["end", 80_000]
    assert all(20_000 <= final["start_ms"] <= final["end_ms"] <= 80_000 for final in finals)


async def test_a_tape_gives_what_was_put_on_it(browser: Browser, bridge: Bridge) -> None:
    """The page's own module, with packets and reads of every size, against one long array."""
    async with visit(browser, address(bridge)) as page:
        wrong = await page.page.evaluate(
            """async () => {
                const { Tape } = await import("./tape.js");
                let seed = 7;
                const below = (n) => (seed = (seed * 48271) % 2147483647) % n;
                for (let round = 0; round < 200; round++) {
                    const tape = new Tape(10, 5 + below(20));
                    const all = [];
                    for (let step = 0; step < 60; step++) {
                        const packet = Int16Array.from({ length: below(40) }, () => below(60000) - 30000);
                        tape.push(packet);
                        all.push(...packet);
                        if (below(5) === 0) tape.forget(below(all.length + 1));
                        if (tape.end !== all.length) return "end";
                        if (tape.end - tape.start > tape.most + 40) return "holds too much";
                        const from = tape.start + below(tape.end - tape.start + 1);
                        const most = 1 + below(100);
                        const read = [...tape.read(from, most)];
                        if (String(read) !== String(all.slice(from, from + most))) return `read ${from} ${most}`;
                    }
                }
                return "";
            }"""
        )
    assert wrong == ""

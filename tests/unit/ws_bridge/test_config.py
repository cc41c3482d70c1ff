"""The bridge's settings: what cannot be served is told in a sentence, before anything starts."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_common.settings import BadSettings
from tests.support.process import PATIENCE_S
from tests.support.webhooks import receiving
from ws_bridge.config import read_settings
from ws_bridge.webhook import Webhook


def refusal(url: str) -> str:
    """What is said of a webhook's URL that cannot be posted to."""
    with pytest.raises(BadSettings) as caught:
        read_settings({"bridge_twilio_webhook": url})
    line = str(caught.value)
    assert caught.value.field == "bridge_twilio_webhook" and line.startswith("--twilio-webhook=")
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://here:99999/", "should be a URL: Port out of range 0-65535"),
        ("http://here:http/", "should be a URL: Port could not be cast"),
        ("http://here:0/", "should have a port from 1 to 65535"),
        ("http://[::1/", "should be a URL: Invalid IPv6 URL"),
        ("http://here..there/", "should be a URL"),
        (f"http://{'a' * 64}/", "should be a URL"),
        ("http://:80/", "should name a host"),
        ("http://here/caf\u00e9", "printable ASCII"),
        ("http://h\u00e9re/", "printable ASCII"),
        ("http://here/\x01", "printable ASCII"),
        ("http://user:password@here/", "no user and password"),
        ("http://user@here/", "no user and password"),
        ("ftp://here/", "http:// or https://"),
        ("here", "http:// or https://"),
        ("http://here/a b", "http:// or https://"),
    ],
)
def test_webhooks_that_nothing_can_be_posted_to(url: str, says: str) -> None:
    assert says in refusal(url)


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_webhook_is_refused_or_can_be_posted_to(name: str, path: str) -> None:
    """Whatever the settings let pass, no attempt to post fails for what the URL is made of."""
    for url in (f"http://{name}/{path}", f"http://127.0.0.1:9/{path}"):
        try:
            read_settings({"bridge_twilio_webhook": url})
        except BadSettings:
            continue
        Webhook(url)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F), max_size=20))
def test_a_path_that_is_let_pass_is_posted_to(path: str) -> None:
    async def run() -> None:
        async with receiving() as receiver, asyncio.timeout(PATIENCE_S):
            url = f"{receiver.url.partition('?')[0]}/{path}"
            try:
                read_settings({"bridge_twilio_webhook": url})
            except BadSettings:
                return
            await Webhook(url).post('{"op":"end"}')
            assert receiver.messages == [{"op": "end"}]
            before, _, query = f"/calls/{path}".partition("#")[0].partition("?")
            assert receiver.targets == [f"{before}?{query}" if query else before]

    asyncio.run(run())

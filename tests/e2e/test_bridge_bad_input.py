"""What clients send wrong over WebSocket: each gets the error, the field and the close code; no other notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from random import Random

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.audio import cut, speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, listen, talk
from tests.support.process import AsrService
from tests.support.rpc import Stub, transcribe

INVALID, ORDER = "invalid_argument", "failed_precondition"
PACKET = bytes(640)


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Iterator[Bridge]:
    with Bridge(service.target) as process:
        yield process


@pytest.fixture(autouse=True)
async def bystander(bridge: Bridge, stub: Stub) -> AsyncIterator[None]:
    """A live stream through the same bridge, which the misbehaving one must not disturb."""
    pcm = speechlike(2.0, seed=99)
    packets = cut(pcm, 640)
    async with connect(bridge.url) as client:
        await client.send(INIT)
        for packet in packets[:50]:
            await client.send(packet)
        await client.recv()
        yield
        for packet in packets[50:]:
            await client.send(packet)
        await client.send(CLOSE)
        heard = await listen(client)
    assert (heard.code, heard.final["text"]) == (1000, await transcribe(stub, pcm))


CASES: dict[str, tuple[list[str | bytes], str, str, str]] = {
    "audio before init": ([PACKET], ORDER, "op", '"op":"init"'),
    "init as binary": ([INIT.encode()], ORDER, "op", "as text"),
    "keepalive as binary": ([INIT, PACKET, b'{"op":"keepalive"}'], INVALID, "message", "send it as text"),
    "close as binary": ([INIT, PACKET, f"{CLOSE}\n".encode()], INVALID, "message", "send it as text"),
    "another protocol's close as binary": (
        [INIT, b'{"type": "CloseStream"}'],
        INVALID,
        "message",
        "send it as text",
    ),
    "close before init": ([CLOSE], ORDER, "op", "close before init"),
    "init twice": ([INIT, PACKET, INIT], ORDER, "op", "one stream"),
    "text where binary belongs": ([INIT, "UklGRiQAAABXQVZFZm10IBAAAAABAAEA"], INVALID, "message", "binary"),
    "a packet as JSON": ([INIT, json.dumps([0] * 320)], INVALID, "message", "not an object"),
    "audio as base64": ([INIT, "A" * 8192], INVALID, "message", "binary"),
    "no JSON first": (["hello"], INVALID, "message", "not JSON"),
    "JSON that is not an object": (["[]"], INVALID, "message", "not an object"),
    "no op": (['{"sid":"call-17"}'], INVALID, "op", "init, finalize, keepalive, close"),
    "unknown op": (
        [INIT, '{"op":"stop","sid":"call-17"}'],
        INVALID,
        "op",
        "init, finalize, keepalive, close",
    ),
    "wrong sid": ([INIT, PACKET, '{"op":"close","sid":"call-18"}'], INVALID, "sid", "call-17"),
    "no sid": (['{"op":"init","sr":16000}'], INVALID, "sid", "1 to 128"),
    "unknown encoding": (['{"op":"init","sid":"a","enc":"opus"}'], INVALID, "enc", "linear16"),
    "rate 0": (['{"op":"init","sid":"a","sr":0}'], INVALID, "sr", "8000 to 192000"),
    "rate 7": (['{"op":"init","sid":"a","sr":7}'], INVALID, "sr", "8000 to 192000"),
    "rate 10 MHz": (['{"op":"init","sid":"a","sr":10000000}'], INVALID, "sr", "8000 to 192000"),
    "rate as string": (['{"op":"init","sid":"a","sr":"16000"}'], INVALID, "sr", "8000 to 192000"),
    "rate true": (['{"op":"init","sid":"a","sr":true}'], INVALID, "sr", "8000 to 192000"),
    "endpoint too short": (
        ['{"op":"init","sid":"a","endpoint_ms":5}'],
        INVALID,
        "endpoint_ms",
        "100 to 10000",
    ),
    "phrases no list": (['{"op":"init","sid":"a","phrases":"zulu"}'], INVALID, "phrases", "list of strings"),
    "tag too long": ([INIT, json.dumps({"op": "finalize", "tag": "x" * 129})], INVALID, "tag", "128"),
}


@pytest.mark.parametrize("name", CASES)
async def test_bad_message(bridge: Bridge, name: str) -> None:
    said, code, field, right = CASES[name]
    heard = await talk(bridge, said)
    assert heard.code == 1008
    error = heard.error
    assert (error["code"], error["field"]) == (code, field)
    assert right in error["message"]
    assert error["sid"] == ("call-17" if said[0] == INIT else "")
    assert heard.reason
    assert error["message"].startswith(heard.reason)


@pytest.mark.parametrize(
    ("fields", "field", "right"),
    [
        ('"phrases":["zulu","route 66"]', "phrases[1]", "'6', which the model cannot write"),
        ('"phrases":["zulu",""]', "phrases[1]", "1 to 100"),
        ('"phrases":["zulu"],"boost":11', "boost", "0 to 10"),
        ('"phrases":[' + ",".join(['"zulu"'] * 1001) + "]", "phrases", "1000 phrases"),
    ],
)
async def test_phrases_that_the_service_refuses(bridge: Bridge, fields: str, field: str, right: str) -> None:
    heard = await talk(bridge, [f'{{"op":"init","sid":"call-17",{fields}}}'])
    assert (heard.code, heard.error["code"], heard.error["field"]) == (1008, INVALID, field)
    assert heard.error["sid"] == "call-17"
    assert right in heard.error["message"]
    assert heard.error["message"].startswith(f"{field} ")


async def test_a_client_that_says_nothing_is_told_what_to_say(impatient: AsrService) -> None:
    with Bridge(impatient.target) as bridge:
        await bridge.ready()
        heard = await talk(bridge, [INIT, PACKET])
    assert (heard.code, heard.error["code"]) == (1008, "deadline_exceeded")
    assert "send audio, or keepalive while" in heard.error["message"]


async def test_the_results_so_far_come_before_the_error(bridge: Bridge) -> None:
    async with connect(bridge.url) as client:
        await client.send(INIT)
        await client.send(speechlike(2.0))
        await client.send('{"op":"finalize"}')
        seen = ""
        while '"final":true' not in seen:
            seen = str(await client.recv())
        await client.send("rubbish")
        heard = await listen(client)
    assert (heard.code, heard.error["field"]) == (1008, "message")


async def test_a_50_mb_message(bridge: Bridge) -> None:
    heard = await talk(bridge, [INIT, bytes(50_000_000)])
    assert heard.code == 1009
    assert "4194304" in heard.reason
    assert (heard.error["code"], heard.error["field"]) == (INVALID, "message")
    assert "4194304" in heard.error["message"]
    assert heard.error["sid"] == "call-17"


async def test_a_50_mb_message_in_fragments(bridge: Bridge) -> None:
    async def fragments() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield bytes(1_000_000)

    async with connect(bridge.url, compression=None) as client:
        await client.send(INIT)
        listening = asyncio.create_task(listen(client))
        # Whether sending fails depends on what is in the sockets when the close comes.
        with contextlib.suppress(ConnectionClosed):
            await client.send(fragments())
        heard = await listening
    assert (heard.code, heard.error["field"]) == (1009, "message")


@pytest.mark.parametrize("size", [9_000, 17_000])
async def test_cookies_of_a_page(bridge: Bridge, size: int) -> None:
    """As many as a browser sends are taken; more than the setting allows are refused before the handshake is done."""
    headers = {"Cookie": "session=" + "x" * size}
    if size < 16 * 1024:
        heard = await talk(bridge, [INIT, PACKET, CLOSE], additional_headers=headers)
        assert heard.code == 1000
        return
    with pytest.raises(InvalidStatus) as caught:
        await connect(bridge.url, additional_headers=headers)
    assert caught.value.response.status_code == 431


async def test_the_setting_for_longer_headers(service: AsrService) -> None:
    with Bridge(service.target, ASR_BRIDGE_MAX_HEADER_BYTES=32_768) as generous:
        heard = await talk(generous, [INIT, CLOSE], additional_headers={"Cookie": "x" * 20_000})
    assert heard.code == 1000


async def test_the_largest_message_is_taken(bridge: Bridge, stub: Stub) -> None:
    pcm = speechlike(131.0)[: 4 * 1024 * 1024]
    heard = await talk(bridge, [INIT, pcm, CLOSE])
    assert (heard.code, heard.final["text"]) == (1000, await transcribe(stub, pcm, 64_000))


@pytest.mark.parametrize("first", [[], [INIT]], ids=["first", "later"])
async def test_invalid_utf_8(bridge: Bridge, first: list[str]) -> None:
    async with connect(bridge.url) as client:
        for message in first:
            await client.send(message)
        await client.send(b'{"op":"close","sid":"\xff\xfe"}', text=True)
        heard = await listen(client)
    assert heard.code == 1007
    assert "position 21" in heard.reason


async def test_not_websocket_at_all(bridge: Bridge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello TLS\r\n\r\n")
    assert await reader.read() == b""  # there is no telling what it would understand
    writer.close()


async def test_a_frame_that_is_no_frame(bridge: Bridge) -> None:
    async with connect(bridge.url) as client:
        await client.send(INIT)
        client.transport.write(b"\xff\xff\xff\xff")
        heard = await listen(client)
    assert heard.code == 1002


WORDS: list[str | bytes] = [
    INIT,
    INIT,
    CLOSE,
    PACKET,
    PACKET[:333],
    b"",
    '{"op":"finalize"}',
    '{"op":"keepalive","sid":"call-17"}',
    '{"op":"init","sid":"\\ud800"}',
    '{"op":"finalize","tag":"\\ud800"}',
    '{"op":"close","sid":["call-17"]}',
    '{"op":"init","sid":"a","sr":1e400}',
    "[" * 3000,
    "\u0000",
    "NaN",
]


async def test_any_order_of_messages_ends_as_documented(bridge: Bridge) -> None:
    random = Random(2)
    plans = [[INIT] * (n % 2) + random.choices(WORDS, k=random.randrange(1, 9)) + [CLOSE] for n in range(150)]
    for start in range(0, len(plans), 10):  # the service has 16 streams
        for heard in await asyncio.gather(*(talk(bridge, plan) for plan in plans[start : start + 10])):
            if heard.code == 1000:
                assert heard.final["final"] is True
            else:
                assert (heard.code, heard.error["code"] in (INVALID, ORDER)) == (1008, True)
                assert heard.error["field"] in ("op", "sid", "sr", "tag", "message")

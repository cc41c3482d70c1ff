"""Twilio's Media Streams through a real bridge and a real service; results come to a webhook."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asr.v1 import asr_pb2 as pb
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from asr_service.access.api_keys import new_key
from tests.support.audio import cut, silence, speechlike
from tests.support.bridge import Bridge
from tests.support.process import AsrService
from tests.support.rpc import Stub, transcribe, until_active
from tests.support.webhooks import Receiver, receiving

MULAW = speechlike(1.5, seed=17, rate=8_000)
"""Any bytes are mu-law."""
STOP = json.dumps({"event": "stop", "sequenceNumber": "9", "stop": {"callSid": "CA1"}, "streamSid": "MZ1"})


def start(**parameters: str) -> str:
    media = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    about = {"accountSid": "AC1", "callSid": "CA1", "streamSid": "MZ1", "tracks": ["inbound"]}
    told = about | {"mediaFormat": media, "customParameters": parameters}
    return json.dumps({"event": "start", "sequenceNumber": "1", "start": told, "streamSid": "MZ1"})


def media(audio: bytes, track: str = "inbound") -> str:
    payload = {"track": track, "chunk": "1", "timestamp": "5", "payload": base64.b64encode(audio).decode()}
    return json.dumps({"event": "media", "sequenceNumber": "2", "media": payload, "streamSid": "MZ1"})


@asynccontextmanager
async def taking(
    service: AsrService, *statuses: int, **settings: Any
) -> AsyncIterator[tuple[Bridge, Receiver]]:
    """A bridge whose calls' results come to a receiver that answers its first messages so."""
    async with receiving(*statuses) as receiver:
        with Bridge(service.target, ASR_BRIDGE_TWILIO_WEBHOOK=receiver.url, **settings) as bridge:
            await bridge.ready()
            yield bridge, receiver


async def call(bridge: Bridge, audio: bytes, **parameters: str) -> ClientConnection:
    """A call that has said something."""
    client = await connect(f"{bridge.url}/twilio")
    await client.send('{"event":"connected","protocol":"Call","version":"1.0.0"}')
    await client.send(start(**parameters))
    for packet in cut(audio, 160):
        await client.send(media(packet))
        await client.send(media(bytes(160), "outbound"))
    return client


def finals(receiver: Receiver) -> str:
    return " ".join(one["text"] for one in receiver.messages if one["op"] == "final" and one["text"])


@pytest.mark.parametrize("leaves", ["stop", "stop and close", "close", "abort", "silence"])
async def test_a_call_and_its_ends(service: AsrService, stub: Stub, leaves: str) -> None:
    """However it ends, what was said is told."""
    fields = {"encoding": pb.AUDIO_ENCODING_MULAW, "sample_rate_hertz": 8_000}
    expected = await transcribe(stub, MULAW, endpointing=pb.Endpointing(trailing_silence_ms=800), **fields)
    # Whoever is silent is found by pings that are not answered.
    settings = {"ASR_BRIDGE_PING_S": 0.3} if leaves == "silence" else {}
    async with taking(service, **settings) as (bridge, receiver):
        client = await call(bridge, MULAW, customer="42")
        if "stop" in leaves:
            await client.send(STOP)
        if "close" in leaves:
            await client.close()
        if leaves == "abort":
            await until_active(stub, 1)
            client.transport.abort()
        if leaves == "silence":
            await until_active(stub, 1)
            client.transport.pause_reading()
        end = await receiver.until("end")
        assert finals(receiver) == expected != ""
        for message in receiver.messages:
            assert (message["sid"], message["stream"]) == ("CA1", "MZ1")
            assert message["parameters"] == {"customer": "42"}
        assert receiver.messages[-1] == end
        assert set(receiver.targets) == {"/calls?a=b"}
        if leaves == "stop":
            await client.wait_closed()
            assert client.close_code == 1000
        client.transport.abort()
    await until_active(stub, 0)


async def test_parameters_ask_as_init_does(service: AsrService, stub: Stub) -> None:
    async with taking(service) as (bridge, receiver):
        quiet = silence(1.0, rate=4_000).replace(b"\0", b"\xff")
        audio = MULAW + quiet + MULAW
        asked = {
            "interim": "true",
            "words": "True",
            "details": "true",
            "endpoint_ms": "300",
            "phrases": "zulu, kilo",
        }
        client = await call(bridge, audio, **asked)
        await client.send(STOP)
        await receiver.until("end")
    told = [message for message in receiver.messages if message["op"] == "final"]
    assert any(message["op"] == "interim" for message in receiver.messages)
    assert {message["reason"] for message in told} >= {"end_of_stream"}
    assert all("words" in message for message in told)
    assert told[0]["parameters"] == asked


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([STOP], "stop came before start"),
        ([media(b"a")], "media came before start"),
        ([b"binary"], "message is binary"),
        (["no json"], "message is no JSON"),
        ([start(), start()], "start came a second time"),
        ([start(endpoint_ms="soon")], "endpoint_ms is 'soon'"),
        ([start(track="both")], "track should be inbound or outbound"),
        ([start(), media(b"a").replace("YQ==", "?")], "media.payload is no base64"),
        ([start(phrases="route 66"), media(b"a")], "phrases[0] has '6'"),
        ([start().replace("x-mulaw", "opus")], "start.mediaFormat.encoding should be one of"),
    ],
)
async def test_what_cannot_be_served(service: AsrService, messages: list[str | bytes], says: str) -> None:
    async with taking(service) as (bridge, receiver):
        client = await connect(f"{bridge.url}/twilio")
        for message in messages:
            await client.send(message)
        with pytest.raises(ConnectionClosedError):
            await client.recv()
        assert client.close_code == 1008 and (client.close_reason or "").startswith(says)
        assert (await receiver.until("error"))["message"].startswith(says)


async def test_a_webhook_that_fails_is_tried_again(service: AsrService, stub: Stub) -> None:
    async with taking(service, 0, 500) as (bridge, receiver):
        client = await call(bridge, MULAW)
        await client.send(STOP)
        await receiver.until("end")
        assert finals(receiver) and len(receiver.targets) == len(receiver.messages) + 2
    async with taking(service, 404) as (bridge, receiver):
        client = await call(bridge, MULAW)
        await client.send(STOP)
        await receiver.until("end")
        assert not finals(receiver), "it was told not to"
        assert "HTTP 404" in (await bridge.said("the webhook has not taken")).string


async def test_keys_and_a_bridge_without_a_webhook(service: AsrService, tmp_path: Path) -> None:
    with Bridge(service.target) as bridge:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{bridge.url}/twilio")
        answer = caught.value.response
        assert answer.status_code == 503 and b"ASR_BRIDGE_TWILIO_WEBHOOK is not set" in (answer.body or b"")
    key, line = new_key("alice", 1)
    path = tmp_path / "keys"
    path.write_text(line)
    with AsrService(ASR_API_KEYS_FILE=path) as keyed:
        async with taking(keyed) as (bridge, receiver):
            client = await call(bridge, MULAW, key=key)
            await client.send(STOP)
            await receiver.until("end")
            assert finals(receiver) and key not in json.dumps(receiver.messages)
            client = await connect(f"{bridge.url}/twilio")
            await client.send(start())
            assert "parameter 'key'" in (await receiver.until("error"))["message"]
            assert await asyncio.to_thread(bridge.stop) == 0
            assert key not in bridge.output

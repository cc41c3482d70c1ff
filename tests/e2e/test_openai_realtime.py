"""OpenAI's realtime transcription through a real bridge and a real service: the words are those of `Recognize`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from asr.v1 import asr_pb2 as pb
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from asr_service.access.api_keys import new_key
from tests.support.audio import cut, silence, speechlike
from tests.support.bridge import Bridge, admit, result, scripted_service
from tests.support.process import PATIENCE_S, AsrService
from tests.support.rpc import Stub, transcribe, until_active

TRANSCRIPTION = "conversation.item.input_audio_transcription"
RATE = 24_000


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Iterator[Bridge]:
    with Bridge(service.target) as process:
        yield process


class Client:
    """One session: says events, and reads until one of a kind comes."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def update(self, **fields: Any) -> dict[str, Any]:
        await self.say("session.update", session={"type": "transcription", "audio": {"input": fields}})
        return await self.until("session.updated")

    async def append(self, audio: bytes, size: int = 960) -> None:
        for packet in cut(audio, size):
            await self.say("input_audio_buffer.append", audio=base64.b64encode(packet).decode())

    async def until(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The `count`-th event of a kind from here on."""
        async with asyncio.timeout(PATIENCE_S):
            while count:
                self.heard.append(json.loads(await self.socket.recv()))
                assert self.heard[-1]["type"] != "error" or kind == "error", self.heard[-1]
                count -= self.heard[-1]["type"] == kind
        return self.heard[-1]

    async def until_closed(self) -> tuple[int, str]:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.heard.append(json.loads(await self.socket.recv()))
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.heard if event["type"] == kind]

    @property
    def transcripts(self) -> list[str]:
        return [event["transcript"] for event in self.of(f"{TRANSCRIPTION}.completed")]

    def deltas(self, item_id: str) -> str:
        return "".join(one["delta"] for one in self.of(f"{TRANSCRIPTION}.delta") if one["item_id"] == item_id)


@contextlib.asynccontextmanager
async def session(
    bridge: Bridge, query: str = "intent=transcription", **options: Any
) -> AsyncIterator[Client]:
    async with connect(f"{bridge.url}/v1/realtime?{query}", compression=None, **options) as socket:
        client = Client(socket)
        created = json.loads(await socket.recv())
        assert created["type"] == "session.created"
        yield client


@pytest.mark.parametrize(
    ("audio_format", "rate", "fields"),
    [
        ({"type": "audio/pcm", "rate": 24_000}, 24_000, {}),
        ({"type": "audio/pcm", "rate": 16_000}, 16_000, {}),
        ({"type": "audio/pcmu"}, 8_000, {"encoding": pb.AUDIO_ENCODING_MULAW}),
        ({"type": "audio/pcma"}, 8_000, {"encoding": pb.AUDIO_ENCODING_ALAW}),
    ],
)
async def test_turns_that_the_client_commits(
    bridge: Bridge, stub: Stub, audio_format: dict[str, Any], rate: int, fields: dict[str, Any]
) -> None:
    pcm = speechlike(1.5, seed=31, rate=rate)
    expected = await transcribe(stub, pcm, sample_rate_hertz=rate, **fields)
    async with session(bridge) as client:
        updated = await client.update(format=audio_format, turn_detection=None)
        assert updated["session"]["audio"]["input"]["turn_detection"] is None
        for _ in range(2):
            await client.append(pcm, 999)
            await client.say("input_audio_buffer.commit")
            completed = await client.until(f"{TRANSCRIPTION}.completed")
            assert client.deltas(completed["item_id"]) == completed["transcript"]
            assert completed["usage"]["seconds"] > 0
    # The model starts anew after each.
    assert client.transcripts == [expected, expected] != ["", ""]
    committed = [event["item_id"] for event in client.of("input_audio_buffer.committed")]
    assert committed == [event["item_id"] for event in client.of(f"{TRANSCRIPTION}.completed")]
    assert not client.of("input_audio_buffer.speech_started")


async def test_turns_that_the_service_finds(bridge: Bridge, stub: Stub) -> None:
    pcm = b"".join(speechlike(1.0, seed=seed, rate=RATE) + silence(1.5, rate=RATE) for seed in (41, 42))
    expected = await transcribe(
        stub, pcm, sample_rate_hertz=RATE, endpointing=pb.Endpointing(trailing_silence_ms=300)
    )
    async with session(bridge, "intent=transcription&model=gpt-4o-mini-transcribe") as client:
        await client.update(turn_detection={"type": "server_vad", "silence_duration_ms": 300})
        await client.append(pcm)
        while " ".join(client.transcripts) != expected:
            await client.until(f"{TRANSCRIPTION}.completed")
    started, stopped = (client.of(f"input_audio_buffer.speech_{what}") for what in ("started", "stopped"))
    ids = [event["item_id"] for event in client.of(f"{TRANSCRIPTION}.completed")]
    assert [event["item_id"] for event in started] == [event["item_id"] for event in stopped] == ids
    for start, end in zip(started, stopped, strict=True):
        assert start["audio_start_ms"] < end["audio_end_ms"]
    assert all(client.deltas(item_id) for item_id in ids)
    previous = [event["previous_item_id"] for event in client.of("input_audio_buffer.committed")]
    assert previous == [None, *ids[:-1]]


async def test_settings_that_change_on_the_way(bridge: Bridge, stub: Stub) -> None:
    wide, narrow = speechlike(1.0, seed=51, rate=RATE), speechlike(1.0, seed=52, rate=8_000)
    async with session(bridge) as client:
        await client.update(turn_detection=None)
        await client.append(wide)
        await client.say("input_audio_buffer.commit")
        await client.update(format={"type": "audio/pcm", "rate": 8_000})
        await client.append(narrow)
        await client.say("input_audio_buffer.commit")
        await client.until(f"{TRANSCRIPTION}.completed", 2 - len(client.transcripts))
    assert client.transcripts == [
        await transcribe(stub, wide, sample_rate_hertz=RATE),
        await transcribe(stub, narrow, sample_rate_hertz=8_000),
    ]
    await until_active(stub, 0)


async def test_what_is_cleared_is_not_heard(bridge: Bridge, stub: Stub) -> None:
    thrown, kept = (speechlike(1.0, seed=seed, rate=RATE) for seed in (61, 62))
    async with session(bridge) as client:
        await client.update(turn_detection=None)
        await client.append(thrown)
        await client.say("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        await client.append(kept)
        await client.say("input_audio_buffer.commit")
        await client.until(f"{TRANSCRIPTION}.completed")
    assert client.transcripts == [await transcribe(stub, kept, sample_rate_hertz=RATE)]


async def test_events_as_they_were_at_first(bridge: Bridge, stub: Stub) -> None:
    pcm = speechlike(1.0, seed=71, rate=RATE)
    headers = {"OpenAI-Beta": "realtime=v1"}
    url = f"{bridge.url}/v1/realtime?intent=transcription"
    async with connect(url, additional_headers=headers) as socket:
        client = Client(socket)
        await client.until("transcription_session.created")
        asked = {"input_audio_format": "pcm16", "turn_detection": None}
        await client.say("transcription_session.update", session=asked)
        await client.until("transcription_session.updated")
        await client.append(pcm)
        await client.say("input_audio_buffer.commit")
        await client.until("conversation.item.created")
        await client.until(f"{TRANSCRIPTION}.completed")
    assert client.transcripts == [await transcribe(stub, pcm, sample_rate_hertz=RATE)]


async def test_errors_do_not_end_a_session(bridge: Bridge, stub: Stub) -> None:
    pcm = speechlike(1.0, seed=81, rate=RATE)
    async with session(bridge) as client:
        for kind, fields, code in (
            ("input_audio_buffer.commit", {}, "input_audio_buffer_commit_empty"),
            ("input_audio_buffer.append", {"audio": "?"}, "invalid_value"),
            ("response.create", {}, "invalid_value"),
            ("session.update", {"session": {"type": "realtime"}}, "invalid_value"),
        ):
            await client.say(kind, event_id="mine", **fields)
            error = (await client.until("error"))["error"]
            assert (error["type"], error["code"], error["event_id"]) == (
                "invalid_request_error",
                code,
                "mine",
            )
        await client.socket.send(b"\1\2")
        assert "base64" in (await client.until("error"))["error"]["message"]
        await client.update(turn_detection=None)
        await client.append(pcm)
        await client.say("input_audio_buffer.commit")
        await client.until(f"{TRANSCRIPTION}.completed")
    assert client.transcripts == [await transcribe(stub, pcm, sample_rate_hertz=RATE)]


async def test_what_the_service_refuses_ends_it(bridge: Bridge) -> None:
    async with session(bridge) as client:
        await client.update(transcription={"keywords": ["route 66"]})
        await client.append(bytes(960))
        code, reason = await client.until_closed()
    assert code == 1008 and reason.startswith("keywords[0] has '6'")
    assert client.heard[-1]["error"]["param"] == "keywords[0]"


async def test_a_session_without_audio_takes_no_stream(bridge: Bridge, stub: Stub) -> None:
    async with session(bridge) as client:
        await client.update(turn_detection=None)
        assert (await stub.GetServiceInfo(pb.GetServiceInfoRequest())).active_streams == 0
        await client.append(speechlike(0.5, rate=RATE))
        await client.until(f"{TRANSCRIPTION}.delta")
        await until_active(stub, 1)
    await until_active(stub, 0)


async def test_a_client_that_reads_nothing_is_told(service: AsrService) -> None:
    with Bridge(service.target, ASR_BRIDGE_MAX_UNREAD=3) as bridge:
        await bridge.ready()
        async with session(bridge) as client:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(100_000):
                    await client.say("nonsense", filler="x" * 1_000)
            code, reason = await client.until_closed()
    assert code == 1008 and "wait to be read" in reason


async def test_handshakes_that_are_refused(bridge: Bridge, tmp_path: Path) -> None:
    async def refused(bridge: Bridge, query: str) -> tuple[int, dict[str, Any]]:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{bridge.url}/v1/realtime?{query}")
        return caught.value.response.status_code, json.loads(caught.value.response.body)["error"]

    status, error = await refused(bridge, "intent=conversation")
    assert (status, error["param"], error["type"]) == (400, "intent", "invalid_request_error")
    key, line = new_key("alice", 1)
    path = tmp_path / "keys"
    path.write_text(line)
    with AsrService(ASR_API_KEYS_FILE=path) as service, Bridge(service.target) as keyed:
        await keyed.ready()
        status, error = await refused(keyed, "intent=transcription")
        assert (status, error["code"]) == (401, "invalid_api_key")
        header = {"additional_headers": {"Authorization": f"Bearer {key}"}}
        offered = {"subprotocols": ["realtime", f"openai-insecure-api-key.{key}"]}
        for options in (header, offered):
            async with session(keyed, **options) as client:
                await client.update(turn_detection=None)
                await client.append(speechlike(1.0, rate=RATE))
                await client.say("input_audio_buffer.commit")
                await client.until(f"{TRANSCRIPTION}.completed")
            assert client.transcripts[0]
            await asyncio.to_thread(keyed.wait_line, "connection ended")
    with Bridge("127.0.0.1:1") as alone:
        status, error = await refused(alone, "intent=transcription")
        assert (status, error["type"]) == (503, "server_error")


async def test_a_service_that_is_lost() -> None:
    async def handler(requests: Any, context: Any) -> None:
        await admit(context)
        await anext(requests)
        await context.write(result("what was heard", final=False))
        await asyncio.Event().wait()

    async with contextlib.AsyncExitStack() as stack:
        target = await stack.enter_async_context(scripted_service(handler))
        with Bridge(target) as bridge:
            await bridge.ready()
            async with session(bridge) as client:
                await client.append(bytes(960))
                await client.until(f"{TRANSCRIPTION}.delta")
                await stack.aclose()
                code, _ = await client.until_closed()
    assert client.transcripts == ["what was heard"]
    assert code == 1011 and client.heard[-1]["error"]["type"] == "server_error"


async def test_a_drain_ends_sessions_with_what_was_heard(service: AsrService) -> None:
    with Bridge(service.target, ASR_DRAIN_S=0) as bridge:
        await bridge.ready()
        async with session(bridge) as client, session(bridge) as idle:
            await client.update(turn_detection=None)
            await client.append(speechlike(1.0, rate=RATE))
            await client.until(f"{TRANSCRIPTION}.delta")
            assert await asyncio.to_thread(bridge.stop) == 0
            assert (await client.until_closed())[0] == 1013
            assert (await idle.until_closed())[0] == 1013
    assert client.transcripts[0] and client.heard[-1]["error"]["code"] == "service_unavailable"

"""Streams that the server ends: what was recognized comes as a last final, over every door, and then the reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from websockets.asyncio.client import connect

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from tests.support import riva, rpc
from tests.support.audio import FULL_SCALE, cut, speechlike
from tests.support.bridge import INIT, Bridge, listen
from tests.support.process import AsrService
from tests.support.three_doors import Doors, connected

PCM = speechlike(1.0, seed=5)
"""Sent by clients that then stay quiet, and ask for finals only."""


@dataclass(frozen=True)
class Told:
    """What a client was told: the texts of its finals, why the last of them is one ("" where that is not said), and the
    status, in lower case."""

    finals: list[str]
    reason: str
    status: str


async def until_its_error(call: Any) -> tuple[list[Any], str]:
    """All responses of a call that ends with an error, and its status in lower case."""
    responses = []
    try:
        async for response in call:
            responses.append(response)  # noqa: PERF401 - what came before the error counts
    except grpc.aio.AioRpcError as error:
        return responses, error.code().name.lower()
    raise AssertionError("the call has ended without an error")


async def over_grpc(doors: Doors, more: bytes = b"") -> Told:
    call = doors.stub.Recognize()
    await call.write(rpc.config(interim_results=False))
    for packet in [*cut(PCM, 640), more]:
        await call.write(rpc.audio(packet))
    responses, status = await until_its_error(call)
    finals = rpc.finals(responses)
    reason = pb.FinalReason.Name(finals[-1].final_reason).removeprefix("FINAL_REASON_").lower()
    return Told([final.text for final in finals], reason, status)


async def over_riva(doors: Doors, more: bytes = b"") -> Told:
    call = doors.riva.StreamingRecognize()
    await call.write(riva.opening(interims=False, endpointing_config=riva.pause(10_000)))
    for packet in [*cut(PCM, 640), more]:
        await call.write(riva.audio(packet))
    responses, status = await until_its_error(call)
    finals = [response.results[0].alternatives[0].transcript for response in responses]
    return Told(finals, "ended_by_server", status)


async def over_websocket(doors: Doors, more: bytes = b"") -> Told:
    async with connect(doors.bridge.url, compression=None) as client:
        await client.send(json.dumps({**json.loads(INIT), "interim": False, "details": True}))
        for packet in [*cut(PCM, 640), more]:
            await client.send(packet)
        heard = await listen(client)
    finals = heard.of("final")
    return Told([final["text"] for final in finals], finals[-1]["reason"], heard.error["code"])


DOORS: list[Callable[[Doors, bytes], Awaitable[Told]]] = [over_grpc, over_riva, over_websocket]


async def over_all(doors: Doors, more: bytes = b"") -> list[Told]:
    return list(await asyncio.gather(*(door(doors, more) for door in DOORS)))


async def expected(service: AsrService) -> str:
    """The text of PCM."""
    async with grpc.aio.insecure_channel(service.target) as channel:
        return await rpc.transcribe(rpc.asr_pb2_grpc.SpeechServiceStub(channel), PCM)


@pytest.mark.parametrize(
    ("settings", "status"),
    [({"ASR_MAX_STREAM_S": 1}, "resource_exhausted"), ({"IDLE_TIMEOUT_S": 1}, "deadline_exceeded")],
    ids=["longest stream", "idle"],
)
async def test_a_limit_of_time(service: AsrService, settings: dict[str, Any], status: str) -> None:
    text = await expected(service)
    with AsrService(ASR_MAX_LOAD=0, **settings) as limited, Bridge(limited.target) as bridge:
        async with connected(limited, bridge) as doors:
            assert await over_all(doors) == [Told([text], "ended_by_server", status)] * 3


async def test_a_drain_whose_time_is_over(service: AsrService) -> None:
    text = await expected(service)
    with AsrService(ASR_MAX_LOAD=0, ASR_DRAIN_S=1) as draining, Bridge(draining.target) as bridge:
        async with connected(draining, bridge) as doors:
            told = asyncio.ensure_future(over_all(doors))
            await rpc.until_active(doors.stub, 3)
            draining.signal()
            assert await told == [Told([text], "ended_by_server", "unavailable")] * 3
        assert await asyncio.to_thread(draining.wait) == 0


async def test_a_bridge_whose_drain_is_over(service: AsrService, stub: rpc.Stub) -> None:
    """The service goes on; the bridge has its last final made, and tells who ended the stream."""
    text = await expected(service)
    with Bridge(service.target, ASR_DRAIN_S=0.5) as bridge:
        async with connected(service, bridge) as doors:
            told = asyncio.ensure_future(over_websocket(doors))
            await rpc.until_active(stub, 1)
            bridge.signal()
            assert await told == Told([text], "ended_by_server", "unavailable")
        assert await asyncio.to_thread(bridge.wait) == 0


def check_kept(told: Told, text: str, status: str) -> None:
    """What the front end had of a text was told."""
    assert (told.reason, told.status) == ("ended_by_server", status)
    (kept,) = told.finals
    assert kept and text.startswith(kept)


@pytest.mark.parametrize("door", DOORS)
async def test_an_engine_that_fails(service: AsrService, door: Callable[..., Awaitable[Told]]) -> None:
    """The front end has the text of the steps before, though the client has not asked for interims."""
    text = await expected(service)
    with AsrService(FAULT="die", ASR_MAX_LOAD=0) as failing, Bridge(failing.target) as bridge:
        async with connected(failing, bridge) as doors:
            check_kept(await door(doors, FULL_SCALE), text, "unavailable")


async def test_a_step_that_fails(service: AsrService) -> None:
    text = await expected(service)
    with AsrService(FAULT="raise", ASR_MAX_LOAD=0) as failing, Bridge(failing.target) as bridge:
        async with connected(failing, bridge) as doors:
            for door in DOORS:
                check_kept(await door(doors, FULL_SCALE), text, "internal")


async def test_a_service_that_is_killed_leaves_what_the_bridge_has() -> None:
    """That is what its client has: a client without interims has nothing there."""
    with AsrService() as killed, Bridge(killed.target) as bridge:
        async with connect(bridge.url, compression=None) as client:
            await client.send(INIT)
            await client.send(PCM)
            interim = ""
            while not interim:
                interim = json.loads(await client.recv())["text"]
            killed.vanish()
            heard = await listen(client)
    assert (heard.code, heard.error["code"]) == (1011, "unavailable")
    (final,) = heard.of("final")
    assert final["text"].startswith(interim)
    assert [message["op"] for message in heard.messages][-2:] == ["final", "error"]


async def test_both_channels_have_their_last_finals(service: AsrService) -> None:
    text = await expected(service)
    both = b"".join(sample * 2 for sample in cut(PCM, 2))
    with AsrService(ASR_MAX_STREAM_S=1, ASR_MAX_LOAD=0) as limited:
        async with grpc.aio.insecure_channel(limited.target) as channel:
            call = rpc.asr_pb2_grpc.SpeechServiceStub(channel).Recognize()
            await call.write(rpc.config(audio_channel_count=2, interim_results=False))
            await call.write(rpc.audio(both))
            responses, _ = await until_its_error(call)
    finals = rpc.finals(responses)
    assert sorted((final.channel, final.text) for final in finals) == [(0, text), (1, text)]

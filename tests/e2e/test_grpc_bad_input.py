"""What clients send wrong over gRPC: each gets the status, the field and what would be right; no other notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from grpc.aio import StreamStreamMultiCallable

from tests.support.audio import cut, speechlike
from tests.support.process import AsrService
from tests.support.rpc import (
    Stub,
    audio,
    bad_fields,
    config,
    details,
    failure,
    finalize,
    finals,
    talk,
    text,
    told,
    transcribe,
    until_active,
)

pytestmark = pytest.mark.usefixtures("bystander")
INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION

REFUSED_CONFIGS = {
    "unknown encoding": ({"encoding": 77}, "config.encoding", "LINEAR16"),
    "rate 0": ({"sample_rate_hertz": 0}, "config.sample_rate_hertz", "8000 to 192000"),
    "rate 7": ({"sample_rate_hertz": 7}, "config.sample_rate_hertz", "8000 to 192000"),
    "rate 10 MHz": ({"sample_rate_hertz": 10_000_000}, "config.sample_rate_hertz", "8000 to 192000"),
    "name too long": ({"stream_id": "x" * 129}, "config.stream_id", "128"),
    "name not ASCII": ({"stream_id": "straße"}, "config.stream_id", "printable ASCII"),
    "name with a line end": ({"stream_id": "a\nb"}, "config.stream_id", "printable ASCII"),
    "pause too short": (
        {"endpointing": pb.Endpointing(trailing_silence_ms=99)},
        "config.endpointing.trailing_silence_ms",
        "100 to 10000",
    ),
    "pause too long": (
        {"endpointing": pb.Endpointing(trailing_silence_ms=10_001)},
        "config.endpointing.trailing_silence_ms",
        "100 to 10000",
    ),
    "wait for words too short": (
        {"endpointing": pb.Endpointing(start_timeout_ms=0)},
        "config.endpointing.start_timeout_ms",
        "100 or more",
    ),
    "boost too large": (
        {"phrase_boosts": [pb.PhraseBoost(phrases=["a"]), pb.PhraseBoost(phrases=["a"], boost=11)]},
        "config.phrase_boosts[1].boost",
        "0 to 10",
    ),
    "phrase too long": (
        {"phrase_boosts": [pb.PhraseBoost(phrases=["a" * 101])]},
        "config.phrase_boosts[0].phrases[0]",
        "1 to 100",
    ),
    "phrase with digits": (
        {"phrase_boosts": [pb.PhraseBoost(phrases=["zulu", "route 66"])]},
        "config.phrase_boosts[0].phrases[1]",
        "'6', which the model cannot write",
    ),
    "too many phrases": (
        {"phrase_boosts": [pb.PhraseBoost(phrases=["a"] * 1001)]},
        "config.phrase_boosts",
        "1000 phrases",
    ),
    "a message full of groups": (
        {"phrase_boosts": [pb.PhraseBoost()] * 2_000_000},
        "config.phrase_boosts",
        "1000 groups",
    ),
}


@pytest.mark.parametrize("name", REFUSED_CONFIGS)
async def test_config_that_cannot_be_served(stub: Stub, name: str) -> None:
    fields, field, right = REFUSED_CONFIGS[name]
    error = await failure(stub, [config(**fields)])  # type: ignore[arg-type]
    assert error.code() is INVALID
    assert bad_fields(error) == [field]
    assert field in (error.details() or "")
    assert right in (error.details() or "")


@pytest.mark.parametrize(
    "first", [audio(bytes(640)), finalize(), pb.RecognizeRequest(keep_alive=pb.KeepAlive())]
)
async def test_anything_before_config(stub: Stub, first: pb.RecognizeRequest) -> None:
    error = await failure(stub, [first, config()])
    assert error.code() is PRECONDITION
    assert "first message has to be config" in (error.details() or "")
    assert details(error)["ErrorInfo"].reason == "OUT_OF_ORDER"  # type: ignore[attr-defined]


async def test_nothing_at_all(stub: Stub) -> None:
    error = await failure(stub, [])
    assert error.code() is PRECONDITION


async def test_config_twice(stub: Stub) -> None:
    error = await failure(stub, [config(), audio(bytes(640)), config()])
    assert error.code() is PRECONDITION
    assert "second time" in (error.details() or "")


@pytest.mark.parametrize("place", ["first", "later"])
async def test_request_with_nothing_set(stub: Stub, place: str) -> None:
    requests = [pb.RecognizeRequest()] if place == "first" else [config(), pb.RecognizeRequest()]
    error = await failure(stub, requests)
    assert error.code() is INVALID
    assert bad_fields(error) == ["request"]
    assert "config, audio, finalize or keep_alive" in (error.details() or "")


@pytest.mark.parametrize("place", ["first", "later"])
async def test_bytes_that_are_no_message(service: AsrService, place: str) -> None:
    good = [] if place == "first" else [config().SerializeToString()]
    async with grpc.aio.insecure_channel(service.target) as channel:
        recognize: StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
            "/asr.v1.SpeechService/Recognize"
        )
        error = await told(lambda: anext(aiter(recognize(iter([*good, b"\xff\xff\xff\xff"])))))
    assert error.code() is INVALID
    assert bad_fields(error) == ["request"]


async def test_finalize_tag_too_long(stub: Stub) -> None:
    error = await failure(stub, [config(), finalize("x" * 129)])
    assert error.code() is INVALID
    assert bad_fields(error) == ["finalize.tag"]


async def test_empty_audio_is_nothing(stub: Stub) -> None:
    pcm = speechlike(1.0)
    with_gaps = [piece for packet in cut(pcm, 640) for piece in (audio(packet), audio(b""))]
    assert text(await talk(stub, [config(), audio(b""), *with_gaps])) == await transcribe(stub, pcm)


async def test_stream_without_audio(stub: Stub) -> None:
    (only,) = finals(await talk(stub, [config()]))
    assert only.text == ""
    assert only.final_reason == pb.FINAL_REASON_END_OF_STREAM


@pytest.mark.parametrize("size", [1, 3, 641, 1279, 100_001])
async def test_packets_that_split_samples(stub: Stub, size: int) -> None:
    pcm = speechlike(1.0, seed=3)
    assert await transcribe(stub, pcm, size) == await transcribe(stub, pcm)


async def test_odd_byte_at_the_end(stub: Stub) -> None:
    pcm = speechlike(1.0, seed=4)
    assert await transcribe(stub, pcm + b"\x01") == await transcribe(stub, pcm)


async def test_message_of_50_megabytes(stub: Stub) -> None:
    error = await failure(stub, [config(), audio(bytes(50_000_000))])
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4194304" in (error.details() or "")


async def test_client_that_never_reads(stub: Stub) -> None:
    """Ten minutes of audio, finals and all, unread; then everything is there: every final, once, in order."""
    pcm = speechlike(10.0, seed=5)
    call = stub.Recognize()
    await call.write(config(word_times=True))
    for turn in range(60):
        for packet in cut(pcm, 32_000):
            await call.write(audio(packet))
        await call.write(finalize(f"turn-{turn}"))
    await call.done_writing()
    got = finals([response async for response in call])
    assert [final.finalize_tag for final in got] == [f"turn-{turn}" for turn in range(60)] + [""]
    assert [final.utterance_index for final in got] == list(range(61))
    assert {final.text for final in got[:60]} and all(final.text for final in got[:60])


async def test_clients_that_vanish(stub: Stub, service: AsrService) -> None:
    """Their connections break mid-stream, without a word; their permits come back."""
    for _ in range(3):
        async with grpc.aio.insecure_channel(service.target) as channel:
            recognize: StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
                "/asr.v1.SpeechService/Recognize"
            )
            calls = [recognize() for _ in range(5)]
            for call in calls:
                await call.write(config().SerializeToString())
                await call.write(audio(bytes(12_345)).SerializeToString())
        # closing the channel drops its connection
    await until_active(stub, 1)  # the bystander


async def test_byte_by_byte_from_a_slow_client(stub: Stub) -> None:
    pcm = speechlike(0.05, seed=6)

    async def requests() -> AsyncIterator[pb.RecognizeRequest]:
        yield config()
        for byte in pcm:
            yield audio(bytes([byte]))
            await asyncio.sleep(0)

    assert text(await talk(stub, requests())) == await transcribe(stub, pcm)

"""Clients that do not read, and what they may not cost: their calls end, and nothing piles up behind them."""

from __future__ import annotations

import asyncio
import contextlib

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from tests.support.audio import speechlike
from tests.support.process import AsrService
from tests.support.rpc import Stub, audio, config, finalize, talk, text, transcribe, until_active

SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
"""A client that takes no more than this ahead of being read."""


async def line(service: AsrService, pattern: str) -> str:
    """A line of the service's log, waited for without holding up the event loop."""
    return (await asyncio.to_thread(service.wait_line, pattern)).string


async def test_a_deaf_client_is_ended_though_it_goes_on_sending() -> None:
    """Its unread finals reach their limit while the connection takes no more: the call ends, and so does a drain."""
    with AsrService(ASR_MAX_UNREAD=50, ASR_MAX_STREAMS=1, ASR_DRAIN_S=60, ASR_STEP_MS=0) as service:
        async with (
            grpc.aio.insecure_channel(service.target, options=SMALL_WINDOW) as deaf,
            grpc.aio.insecure_channel(service.target) as other,
        ):
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(deaf)
            call = stub.Recognize()
            await call.write(config(interim_results=False, word_times=True))
            pcm = speechlike(1.0, seed=1)

            async def ask() -> None:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    while True:
                        await call.write(audio(pcm))
                        await call.write(finalize("x" * 100))

            asking = asyncio.create_task(ask())
            ended = await line(service, "stream ended")
            assert "outcome=resource_exhausted" in ended and "50 results were not read" in ended
            following: Stub = asr_pb2_grpc.SpeechServiceStub(other)
            assert await transcribe(following, pcm), "the one permit there is was given back"
            asking.cancel()
            assert await asyncio.to_thread(service.stop) == 0
            assert "did not end in time" not in service.output


async def test_a_client_that_reads_late_has_all_its_finals_before_it_is_told() -> None:
    """Too many were unread: none is lost, and what was recognized since the last of them comes as one more."""
    turn = speechlike(0.64, seed=3)
    with AsrService(ASR_MAX_UNREAD=50, ASR_MAX_STREAMS=1, ASR_STEP_MS=0) as service:
        async with grpc.aio.insecure_channel(service.target, options=SMALL_WINDOW) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, turn)
            call = stub.Recognize()
            await call.write(config(interim_results=False, word_times=True))
            await call.initial_metadata()

            async def ask() -> None:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    while True:
                        await call.write(audio(turn))
                        await call.write(finalize("x" * 100))

            asking = asyncio.create_task(ask())
            # The service takes what is sent whether it is read or not; only results wait.
            await until_active(stub, 0)
            results = []
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for response in call:
                    results.append(response.result)  # noqa: PERF401 - what came before the error counts
            assert await call.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
            asking.cancel()
    assert len(results) > 50
    assert {result.text for result in results} <= {expected, ""}, (
        "a turn is finalized, or told when the stream ends"
    )
    asked = [result.final_reason == pb.FINAL_REASON_FINALIZE for result in results]
    assert all(asked[:-1])
    assert asked[-1] or results[-1].final_reason == pb.FINAL_REASON_ENDED_BY_SERVER


async def test_a_client_that_half_closes_and_never_reads_is_ended() -> None:
    """Nothing is expected from it any more, so that it is its reading that is watched."""
    with AsrService(IDLE_TIMEOUT_S=5, ASR_STEP_MS=0) as service:
        async with grpc.aio.insecure_channel(service.target, options=SMALL_WINDOW) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            turn = [audio(speechlike(1.0, seed=1)), finalize("x" * 100)]
            call = stub.Recognize(iter([config(interim_results=False, word_times=True), *turn * 300]))
            ended = await line(service, "stream ended")
            assert "outcome=deadline_exceeded" in ended and "results were not read" in ended
            call.cancel()


async def test_a_client_that_is_made_to_wait_is_not_idle() -> None:
    """A slow service reads nothing for longer than the idle time: that is its own doing."""
    pcm = speechlike(16.0, seed=2)
    with AsrService(FAULT="slow", IDLE_TIMEOUT_S=0.5, ASR_INBOX_S=1) as service, AsrService() as fast:
        async with (
            grpc.aio.insecure_channel(service.target) as channel,
            grpc.aio.insecure_channel(fast.target) as other,
        ):
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            reference: Stub = asr_pb2_grpc.SpeechServiceStub(other)
            requests: list[pb.RecognizeRequest] = [config(), audio(pcm), audio(pcm)]
            assert text(await talk(stub, requests)) == text(await talk(reference, requests)) != ""

"""Streams over gRPC: what comes back, admission, flow control."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

import asr_service
from tests.support.audio import cut, silence, speechlike
from tests.support.process import AsrService
from tests.support.rpc import (
    Stub,
    audio,
    config,
    details,
    failure,
    finalize,
    finals,
    retry_after_s,
    talk,
    text,
    transcribe,
    until_active,
)


async def test_worked_exchange(stub: Stub) -> None:
    """The exchange in the proto's comments."""
    pcm = speechlike(3.0, seed=1)
    call = stub.Recognize()
    await call.write(config(word_times=True, stream_id="call-17"))
    assert dict(await call.initial_metadata())["x-stream-id"] == "call-17"
    for packet in cut(pcm, 640):
        await call.write(audio(packet))
    await call.write(finalize("turn-1"))
    for packet in cut(pcm, 640):
        await call.write(audio(packet))
    await call.done_writing()
    responses = [response async for response in call]

    first, last = finals(responses)
    assert (first.final_reason, first.finalize_tag) == (pb.FINAL_REASON_FINALIZE, "turn-1")
    assert (last.final_reason, last.finalize_tag) == (pb.FINAL_REASON_END_OF_STREAM, "")
    assert [first.utterance_index, last.utterance_index] == [0, 1]
    assert [word.word for word in first.words] == first.text.split()
    assert all(0 < word.confidence <= 1 and word.start_ms <= word.end_ms for word in first.words)
    assert last.words[0].start_ms >= 3000, "times are on the stream's clock"
    interims = [response for response in responses if not response.result.is_final]
    assert interims
    assert all(response.result.text for response in interims[1:5])
    assert all(response.stream_id == "call-17" for response in responses)
    processed = [response.audio_processed_ms for response in responses]
    assert processed == sorted(processed)
    assert processed[-1] == 6000
    assert abs(responses[-1].server_time.ToNanoseconds() / 1e9 - time.time()) < 60
    assert await call.code() is grpc.StatusCode.OK


async def test_without_interims(stub: Stub) -> None:
    pcm = speechlike(2.0, seed=2)
    responses = await talk(stub, [config(interim_results=False), *map(audio, cut(pcm, 640))])
    assert [response.result.is_final for response in responses] == [True]
    assert text(responses) == await transcribe(stub, pcm)


async def test_name_is_made_when_none_is_given(stub: Stub) -> None:
    (one,) = await talk(stub, [config()])
    (two,) = await talk(stub, [config()])
    assert one.stream_id
    assert one.stream_id != two.stream_id


async def test_endpointing(stub: Stub) -> None:
    pcm = speechlike(1.0, seed=7) + silence(1.5) + speechlike(1.0, seed=8) + silence(1.5)
    options = {"endpointing": pb.Endpointing(trailing_silence_ms=500)}
    found = finals(await talk(stub, [config(**options), *map(audio, cut(pcm, 640))]))
    assert [final.final_reason for final in found][:2] == [pb.FINAL_REASON_ENDPOINT] * 2


async def test_nobody_speaking_is_told_once(stub: Stub) -> None:
    pcm = silence(3.0) + speechlike(1.0, seed=7)
    options = {"endpointing": pb.Endpointing(start_timeout_ms=1000)}
    found = finals(await talk(stub, [config(**options), *map(audio, cut(pcm, 640))]))
    assert [bool(final.text) for final in found] == [False, True]
    assert found[0].final_reason == pb.FINAL_REASON_ENDPOINT


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000, 192_000])
async def test_other_rates(stub: Stub, rate: int) -> None:
    responses = await talk(
        stub, [config(sample_rate_hertz=rate), *map(audio, cut(speechlike(2.0, rate=rate), 999))]
    )
    assert text(responses)
    assert responses[-1].audio_processed_ms == pytest.approx(2000, abs=5)


async def test_info(stub: Stub) -> None:
    info = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
    assert (info.model, info.version, info.decoder) == ("null", asr_service.__version__, "rnnt")
    assert list(info.att_context) == [70, 1]
    assert (info.chunk_ms, info.look_ahead_ms) == (160, 80)
    assert (info.min_sample_rate_hertz, info.max_sample_rate_hertz) == (8000, 192000)
    assert info.model_sample_rate_hertz == 16000
    assert (info.max_streams, info.max_message_bytes) == (16, 4 * 1024 * 1024)
    assert list(info.encodings) == [value for value in pb.AudioEncoding.values() if value]


async def test_many_at_once_each_with_its_own_text(stub: Stub) -> None:
    pcms = [speechlike(1.0 + index / 7, seed=index) for index in range(12)]
    alone = [await transcribe(stub, pcm) for pcm in pcms]
    together = await asyncio.gather(*(transcribe(stub, pcm, 640 + index) for index, pcm in enumerate(pcms)))
    assert together == alone
    assert len(set(alone)) > 1


async def test_admission() -> None:
    """One stream more than there are slots is refused with a time to come back; a cancelled one makes room."""
    with AsrService(ASR_MAX_STREAMS=2) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            held = [stub.Recognize() for _ in range(2)]
            for call in held:
                await call.write(config())
                await call.initial_metadata()
            error = await failure(stub, [config()])
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert retry_after_s(error) > 0
            assert details(error)["ErrorInfo"].reason == "AT_CAPACITY"  # type: ignore[attr-defined]
            held[0].cancel()
            await until_active(stub, 1)
            assert await transcribe(stub, speechlike(1.0))
            await held[1].done_writing()
            assert len([response async for response in held[1]]) == 1


async def test_deadline_gives_the_slot_back() -> None:
    with AsrService(ASR_MAX_STREAMS=1) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            call = stub.Recognize(timeout=0.2)
            await call.write(config())
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until_active(stub, 0)
            assert await transcribe(stub, speechlike(1.0))


async def test_fast_upload_is_paced_and_loses_nothing() -> None:
    """Half a minute of audio against an inbox of one second and a slow model: the sender waits, every word arrives."""
    pcm = speechlike(30.0, seed=11)
    with AsrService() as quick:
        async with grpc.aio.insecure_channel(quick.target) as channel:
            expected = await transcribe(asr_pb2_grpc.SpeechServiceStub(channel), pcm, 32_000)
    with AsrService(FAULT="slow", ASR_INBOX_S=1) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            heard_ms, ahead_s = 0, []

            async def requests() -> AsyncIterator[pb.RecognizeRequest]:
                yield config()
                for number, packet in enumerate(cut(pcm, 32_000)):
                    ahead_s.append(number + 1 - heard_ms / 1000)
                    yield audio(packet)

            responses = []
            async for response in stub.Recognize(requests()):
                heard_ms = response.audio_processed_ms
                responses.append(response)
            assert text(responses) == expected
            # Beside the inbox: what HTTP/2's window and the packet in hand hold, some seconds at most.
            assert max(ahead_s) < 15


async def test_upload_does_not_stop_a_live_stream(stub: Stub) -> None:
    """While others upload a minute each, a live stream's words come from its own audio, complete."""
    live, upload = speechlike(2.0, seed=21), speechlike(60.0, seed=22)
    expected = await transcribe(stub, live)
    expected_upload = await transcribe(stub, upload, 32_000)
    uploads = [asyncio.create_task(transcribe(stub, upload, 32_000)) for _ in range(4)]

    async def paced() -> AsyncIterator[pb.RecognizeRequest]:
        yield config()
        for packet in cut(live, 640):
            await asyncio.sleep(0.02)  # the pace of speech; nothing is waited for
            yield audio(packet)

    assert text(await talk(stub, paced())) == expected
    assert await asyncio.gather(*uploads) == [expected_upload] * 4


async def test_ten_minutes_of_silence(stub: Stub) -> None:
    """Fed as fast as it goes: no words, one final, and the clock is right. `make torture` does an hour."""
    second = silence(1.0)

    async def requests() -> AsyncIterator[pb.RecognizeRequest]:
        yield config(interim_results=False)
        for _ in range(600):
            yield audio(second)

    (only,) = await talk(stub, requests())
    assert only.result.text == ""
    assert only.audio_processed_ms == 600_000

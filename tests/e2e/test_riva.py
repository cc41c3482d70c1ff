"""The interface of NVIDIA Riva, as its clients use it; `tests/interop` runs those clients themselves."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import grpc.aio
import numpy as np
import pytest
import soundfile
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from tests.support import riva
from tests.support.audio import cut, silence, speechlike
from tests.support.audio_files import written
from tests.support.process import AsrService, resident_bytes
from tests.support.rpc import Bystander, Stub, bad_fields, details, told, transcribe, until_active

NAME = "nvidia.riva.asr.RivaSpeechRecognition"
PCM = speechlike(3.0, seed=21)


@pytest.fixture
async def client(service: AsrService) -> AsyncIterator[Any]:
    """A Riva client of `service`."""
    async with grpc.aio.insecure_channel(service.target) as channel:
        yield riva.stub_on(channel)


@pytest.fixture
async def expected(stub: Stub) -> str:
    """What asr.v1 says about PCM."""
    return await transcribe(stub, PCM)


def wav(pcm: bytes, rate: int = 16_000, channels: int = 1) -> bytes:
    """A WAV file of 16-bit samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm)
    return file.getvalue()


def stereo(left: bytes, right: bytes) -> bytes:
    """Two channels with alternating samples; the shorter one ends in silence."""
    count = max(len(left), len(right)) // 2
    both = np.zeros((count, 2), "<i2")
    for channel, pcm in enumerate((left, right)):
        both[: len(pcm) // 2, channel] = np.frombuffer(pcm, "<i2")
    return both.tobytes()


async def failure(client: Any, requests: list[Any]) -> grpc.aio.AioRpcError:
    return await told(lambda: riva.talk(client, requests))


async def test_a_stream_says_what_recognize_says(client: Any, expected: str) -> None:
    results = await riva.talk(client, [riva.opening(), *riva.packets(PCM)])
    assert riva.text(results) == expected
    interims = [result.alternatives[0].transcript for result in results if not result.is_final]
    assert interims
    assert all(interims), "no empty transcripts"
    whole = [later.startswith(earlier) for earlier, later in pairwise(interims)]
    assert all(whole), "an interim is the whole hypothesis since the last final"
    assert all(result.channel_tag == 1 for result in results)
    assert results[-1].audio_processed == pytest.approx(3.0)


async def test_words_come_with_finals_if_asked_for(client: Any) -> None:
    results = await riva.talk(client, [riva.opening(enable_word_time_offsets=True), *riva.packets(PCM)])
    (final,) = riva.finals(results)
    best = final.alternatives[0]
    assert [word.word for word in best.words] == best.transcript.split()
    assert all(0 <= word.start_time < word.end_time <= 3000 for word in best.words)
    assert all(0 < word.confidence <= 1 for word in best.words)
    assert 0 < best.confidence <= 1
    assert not any(result.alternatives[0].words for result in results if not result.is_final)


async def test_what_is_not_served_is_accepted(client: Any, expected: str) -> None:
    """Models by name, flags, phrases of any boost, diarization, custom configuration, odd metadata."""
    opening = riva.opening(
        model="parakeet-1.1b-en-US-asr-streaming-silero-vad-sortformer",
        enable_automatic_punctuation=True,
        verbatim_transcripts=True,
        profanity_filter=True,
        max_alternatives=5,
        speech_contexts=[riva.rasr.SpeechContext(phrases=["antiberta"], boost=1e9)],
        diarization_config=riva.rasr.SpeakerDiarizationConfig(enable_speaker_diarization=True),
        custom_configuration={"enable_vad_endpointing": "true"},
    )
    metadata = (("authorization", "Bearer a"), ("authorization", "Bearer b"), ("function-id", "1598d209"))
    results = await riva.talk(client, [opening, *riva.packets(PCM)], metadata=metadata)
    assert riva.text(results) == expected
    nameless = await riva.talk(client, [riva.opening(model="", interims=False), *riva.packets(PCM)])
    assert riva.text(nameless) == expected
    assert len(nameless) == 1, "no interims unless asked for"


@pytest.mark.parametrize("with_audio", [False, True])
async def test_force_eou_makes_a_final_and_the_stream_goes_on(
    client: Any, expected: str, with_audio: bool
) -> None:
    *most, last = riva.packets(PCM)
    ask = [riva.audio(last.audio_content, force_eou="true")] if with_audio else [last, riva.force_final()]
    call = client.StreamingRecognize()
    for request in [riva.opening(interims=False), *most, *ask]:
        await call.write(request)
    first = await call.read()  # while the stream is open
    assert [result.is_final for result in first.results] == [True]
    assert first.results[0].alternatives[0].transcript == expected
    await call.write(riva.force_final())
    nothing = await call.read()  # at once, so that it can be told from a slow answer
    assert [(r.is_final, r.alternatives[0].transcript) for r in nothing.results] == [(True, "")]
    assert nothing.results[0].audio_processed == pytest.approx(3.0)
    for request in riva.packets(PCM):
        await call.write(request)
    await call.done_writing()
    second = await call.read()
    assert second.results[0].alternatives[0].transcript == expected
    assert await call.read() is grpc.aio.EOF


async def test_a_pause_of_stop_history_makes_a_final(client: Any, stub: Stub) -> None:
    turn = speechlike(0.64, seed=3) + silence(0.64)  # whole frames, so that every turn has the same ones
    lead = silence(0.16)
    expected = await transcribe(stub, lead + turn)
    call = client.StreamingRecognize()
    await call.write(riva.opening(interims=False, endpointing_config=riva.pause(320)))
    await call.write(riva.audio(lead))
    for _ in range(3):
        for request in riva.packets(turn):
            await call.write(request)
        response = await call.read()
        assert response.results[0].is_final
        assert response.results[0].alternatives[0].transcript == expected
    call.cancel()


async def test_utterances_end_by_themselves_without_configuration(client: Any, stub: Stub) -> None:
    """LiveKit's plugin sends no endpointing_config and waits for finals; others flush with a burst of silence."""
    words = speechlike(0.6, seed=3)
    expected = await transcribe(stub, words + silence(2.0))
    call = client.StreamingRecognize()
    for request in [riva.opening(interims=False), *riva.packets(words), riva.audio(silence(2.0))]:
        await call.write(request)
    response = await call.read()
    assert response.results[0].is_final
    assert response.results[0].alternatives[0].transcript == expected
    call.cancel()


async def test_a_wav_header_is_no_audio(client: Any, expected: str) -> None:
    """riva.client's file iterator sends files as they are, without saying what they hold."""
    for size in (5, 44, 3200):
        opening = riva.opening(encoding=0, sample_rate_hertz=0, audio_channel_count=0)
        results = await riva.talk(
            client, [opening, *riva.packets(wav(PCM)[:1000], size), *riva.packets(wav(PCM)[1000:])]
        )
        assert riva.text(results) == expected


async def test_silence_has_no_results(client: Any) -> None:
    assert await riva.talk(client, [riva.opening(), *riva.packets(silence(1.0))]) == []
    assert await riva.talk(client, [riva.opening()]) == []


@pytest.mark.parametrize("sent", [[], [riva.audio(b"RI")], [riva.audio(silence(1.0))]])
async def test_force_eou_without_words_has_an_empty_final(client: Any, sent: list[Any]) -> None:
    """Before any audio, before a WAV header is there in full, and after silence; on each channel, once."""
    call = client.StreamingRecognize()
    for request in [riva.opening(audio_channel_count=2), *sent, riva.force_final()]:
        await call.write(request)
    answers = [(await call.read()).results[0] for _ in range(2)]
    assert [(a.is_final, a.alternatives[0].transcript) for a in answers] == [(True, "")] * 2
    assert sorted(answer.channel_tag for answer in answers) == [1, 2]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_the_config_is_answered_before_any_audio(client: Any, stub: Stub) -> None:
    """Clients of other languages wait for the response headers; the stream takes its place with its first audio."""
    from asr.v1 import asr_pb2

    call = client.StreamingRecognize()
    await call.write(riva.opening())
    assert "x-stream-id" in dict(await call.initial_metadata())
    info = await stub.GetServiceInfo(asr_pb2.GetServiceInfoRequest())
    assert info.active_streams == 0
    await call.write(riva.audio(silence(0.5)))
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_config_is_refused_at_once_where_there_is_no_place() -> None:
    with AsrService(ASR_MAX_STREAMS=1) as small:
        async with grpc.aio.insecure_channel(small.target) as channel:
            client = riva.stub_on(channel)
            error = await failure(client, [riva.opening(audio_channel_count=2)])
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_two_channels_are_recognized_each_by_itself(client: Any, stub: Stub) -> None:
    other = speechlike(3.0, seed=22)
    both = stereo(PCM, other)
    texts = [await transcribe(stub, PCM), await transcribe(stub, other)]
    opening = riva.opening(
        audio_channel_count=2, enable_separate_recognition_per_channel=True, interims=False
    )
    results = await riva.talk(client, [opening, *riva.packets(both, 637)])
    assert [riva.text([r for r in results if r.channel_tag == tag]) for tag in (1, 2)] == texts
    request = riva.rasr.RecognizeRequest(config=riva.recognition(), audio=wav(both, channels=2))
    response = await client.Recognize(request)
    assert [r.alternatives[0].transcript for r in response.results] == texts
    assert [r.channel_tag for r in response.results] == [1, 2]


async def test_whole_recordings(client: Any, expected: str) -> None:
    flac = io.BytesIO()
    soundfile.write(flac, np.frombuffer(PCM, "<i2"), 16_000, format="FLAC")
    for content in (PCM, wav(PCM), flac.getvalue()):
        request = riva.rasr.RecognizeRequest(
            config=riva.recognition(enable_word_time_offsets=True),
            audio=content,
            id=riva.rasr.RecognizeRequest().id.__class__(value="job 1"),
        )
        response = await client.Recognize(request)
        (result,) = response.results
        assert result.alternatives[0].transcript == expected
        assert len(result.alternatives[0].words) == len(expected.split())
        assert result.audio_processed == pytest.approx(3.0)
        assert response.id.value == "job 1"


async def test_uploads_longer_than_the_inbox(client: Any, stub: Stub) -> None:
    pcm = speechlike(100.0, seed=4)
    response = await client.Recognize(riva.rasr.RecognizeRequest(config=riva.recognition(), audio=pcm))
    assert response.results[0].alternatives[0].transcript == await transcribe(stub, pcm, packet=32_000)


async def test_what_cannot_be_served_is_told(client: Any) -> None:
    error = await failure(client, [riva.audio(b"ab")])
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    error = await failure(client, [riva.opening(), riva.opening()])
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    error = await failure(client, [riva.opening(), riva.audio(b"ab"), riva.opening()])
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    wrong: dict[str, Any] = {"sample_rate_hertz": 4000, "audio_channel_count": 3, "encoding": 99}
    for field, value in wrong.items():
        error = await failure(client, [riva.opening(**{field: value})])
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad_fields(error) == [f"config.{field}"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.Recognize(
            riva.rasr.RecognizeRequest(config=riva.recognition(), audio=b"fLaC" + bytes(100))
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bad_fields(caught.value) == ["audio"]


async def test_streams_of_both_protocols_share_the_permits(stub: Stub) -> None:
    """A stream of two channels takes two, and none at all if it cannot have both."""
    with AsrService(ASR_MAX_STREAMS=3) as small:
        async with grpc.aio.insecure_channel(small.target) as channel:
            client = riva.stub_on(channel)
            call = client.StreamingRecognize()
            await call.write(riva.opening(audio_channel_count=2))
            await call.write(riva.audio(bytes(640)))
            await call.initial_metadata()
            error = await failure(client, [riva.opening(audio_channel_count=2), riva.audio(bytes(640))])
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "RetryInfo" in details(error)
            assert await riva.talk(client, [riva.opening(), riva.audio(bytes(640))]) == []
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF


async def test_it_is_announced(service: AsrService, client: Any) -> None:
    async with grpc.aio.insecure_channel(service.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=NAME))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert "riva interface: on" in service.output
    models = await client.GetRivaSpeechRecognitionConfig(riva.rasr.RivaSpeechRecognitionConfigRequest())
    assert [m.parameters["type"] for m in models.model_config] == ["online", "offline"]
    assert {m.model_name for m in models.model_config} == {"null"}
    wanted = riva.rasr.RivaSpeechRecognitionConfigRequest(model_name="another")
    assert not (await client.GetRivaSpeechRecognitionConfig(wanted)).model_config


async def test_a_client_that_leaves_gives_its_stream_back(client: Any, stub: Stub) -> None:
    call = client.StreamingRecognize()
    for request in [riva.opening(), *riva.packets(PCM)]:
        await call.write(request)
    await until_active(stub, 1)
    call.cancel()
    upload = asyncio.ensure_future(
        client.Recognize(riva.rasr.RecognizeRequest(config=riva.recognition(), audio=cut(PCM, 3200)[0] * 900))
    )
    await asyncio.sleep(0)
    upload.cancel()
    await until_active(stub, 0)


async def test_hours_of_uploads_at_once_leave_memory_and_live_streams_alone(
    service: AsrService, client: Any, stub: Stub, bystander: Bystander
) -> None:
    """Ten FLAC files of 200 kB that are an hour each once decoded, which nobody waits for to their ends."""
    hour = written(np.zeros(3600 * 16_000, np.int16), "FLAC", "PCM_16")
    minute = riva.rasr.RecognizeRequest(
        audio=written(np.frombuffer(speechlike(60.0), "<i2"), "FLAC", "PCM_16")
    )
    expected = (await client.Recognize(minute)).results[0].alternatives[0].transcript
    memory = resident_bytes(service.pid)
    uploads = [client.Recognize(riva.rasr.RecognizeRequest(audio=hour)) for _ in range(10)]
    await until_active(stub, 11)
    # One more takes its turns among them, so that each of them has had many by its end.
    assert (await client.Recognize(minute)).results[0].alternatives[0].transcript == expected
    assert not any(upload.done() for upload in uploads)
    # Of ten hours, 1150 MB, no more than what may wait: ASR_INBOX_S of each stream, a few times over.
    assert resident_bytes(service.pid) - memory < 100 << 20
    for upload in uploads:
        upload.cancel()
    await until_active(stub, 1)

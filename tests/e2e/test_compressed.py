"""Compressed audio over each door: its words are those of its decoded samples."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
import soxr
from asr.v1 import asr_pb2 as pb

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from tests.support import riva, rpc
from tests.support.audio import cut
from tests.support.audio_files import wav
from tests.support.bridge import CLOSE, Bridge, Heard, talk
from tests.support.compressed import compressed, decoded
from tests.support.process import PATIENCE_S, ROOT, AsrService
from tests.support.three_doors import Doors, connected

CLIP, RATE = soundfile.read(ROOT / "asr_service/assets/clips/clip5.wav", dtype="int16")
SAID = "remind me to call martin on monday"
PCM = CLIP.tobytes()


def resampled(rate: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(soxr.resample(CLIP.astype(np.float64), RATE, rate, "VHQ"))


def pcm_at(rate: int) -> bytes:
    return bytes(np.rint(np.clip(resampled(rate), -32_768, 32_767)).astype("<i2").tobytes())


FILES = {
    "FLAC": compressed(PCM, "flac"),
    "FLAC of 44100 Hz": compressed(pcm_at(44_100), "flac", rate=44_100),
    "OGG_OPUS": compressed(pcm_at(48_000), "ogg_opus", rate=48_000),
    "WEBM_OPUS": compressed(pcm_at(48_000), "webm_opus", rate=48_000),
}
RATES = {"FLAC": RATE, "FLAC of 44100 Hz": 44_100, "OGG_OPUS": 48_000, "WEBM_OPUS": 48_000}
every_file = pytest.mark.parametrize("name", FILES)

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[AsrService, Bridge]]:
    settings = {"ASR_MODEL": "demo", "ASR_MAX_STREAMS": 32, "ASR_THREADS": 1, "ASR_MAX_LOAD": 0}
    with AsrService(**settings, wait=False) as service:
        service.wait_ready(PATIENCE_S)
        with Bridge(service.target) as bridge:
            yield service, bridge


@pytest.fixture
async def doors(servers: tuple[AsrService, Bridge]) -> AsyncIterator[Doors]:
    async with connected(*servers) as all_doors:
        yield all_doors


def encoding(name: str) -> Any:
    return pb.AudioEncoding.Value(f"AUDIO_ENCODING_{name.split()[0]}")


def said_of(
    responses: list[pb.RecognizeResponse],
) -> list[tuple[str, int, list[tuple[str, int, int, float]]]]:
    """All that finals tell of what was heard, and when."""
    return [
        (
            response.result.text,
            response.audio_processed_ms,
            [(word.word, word.start_ms, word.end_ms, word.confidence) for word in response.result.words],
        )
        for response in responses
        if response.result.is_final
    ]


@every_file
@pytest.mark.parametrize("size", [53, 640, 100_000])
async def test_over_grpc_words_and_times_are_those_of_the_decoded_samples(
    doors: Doors, name: str, size: int
) -> None:
    opening = rpc.config(encoding=encoding("LINEAR16"), sample_rate_hertz=RATES[name], word_times=True)
    raw = await rpc.talk(doors.stub, [opening, *map(rpc.audio, cut(decoded(FILES[name]), 640))])
    assert rpc.text(raw) == SAID
    for coded in (encoding(name), pb.AUDIO_ENCODING_AUTO):
        opening = rpc.config(encoding=coded, word_times=True)
        heard = await rpc.talk(doors.stub, [opening, *map(rpc.audio, cut(FILES[name], size))])
        assert said_of(heard) == said_of(raw)


def init(**fields: Any) -> str:
    return json.dumps({"op": "init", "sid": "call-17"} | fields)


async def over_websocket(doors: Doors, data: bytes, size: int = 640, **fields: Any) -> Heard:
    return await talk(doors.bridge, [init(**fields), *cut(data, size), CLOSE])


@every_file
async def test_over_websocket(doors: Doors, name: str) -> None:
    for enc in (name.split()[0].lower(), "auto"):
        heard = await over_websocket(doors, FILES[name], enc=enc)
        assert (heard.code, heard.final["text"]) == (1000, SAID)
        assert heard.of("interim")


@pytest.mark.parametrize(("name", "number"), [("FLAC", 2), ("FLAC of 44100 Hz", 2), ("OGG_OPUS", 4)])
@pytest.mark.parametrize("rate", [0, None])
async def test_over_riva(doors: Doors, name: str, number: int, rate: int | None) -> None:
    stated = RATES[name] if rate is None else rate
    opening = riva.opening(
        interims=False, encoding=number, sample_rate_hertz=stated, endpointing_config=riva.pause(10_000)
    )
    results = await riva.talk(doors.riva, [opening, *riva.packets(FILES[name], 640)])
    assert riva.text(results) == SAID


async def test_wav_by_its_bytes(doors: Doors) -> None:
    file = wav(pcm_at(24_000), rate=24_000)
    responses = await rpc.talk(
        doors.stub, [rpc.config(encoding=pb.AUDIO_ENCODING_AUTO), *map(rpc.audio, cut(file, 640))]
    )
    assert rpc.text(responses) == SAID
    heard = await over_websocket(doors, file, enc="auto")
    assert heard.final["text"] == SAID


@pytest.mark.parametrize("rate", [24_000, 96_000])
async def test_raw_samples_of_24_and_96_khz_and_floats(doors: Doors, rate: int) -> None:
    floats = (resampled(rate) / 32_768).astype("<f4").tobytes()
    assert await rpc.transcribe(doors.stub, pcm_at(rate), sample_rate_hertz=rate) == SAID
    assert (
        await rpc.transcribe(
            doors.stub, floats, packet=333, sample_rate_hertz=rate, encoding=pb.AUDIO_ENCODING_FLOAT32
        )
        == SAID
    )
    assert (await over_websocket(doors, pcm_at(rate), sr=rate)).final["text"] == SAID
    assert (await over_websocket(doors, floats, 333, sr=rate, enc="float32")).final["text"] == SAID


async def test_two_channels(doors: Doors) -> None:
    both = np.stack([CLIP, np.zeros_like(CLIP)], 1).tobytes()
    file = compressed(both, "flac", channels=2)
    opening = rpc.config(encoding=pb.AUDIO_ENCODING_FLAC, audio_channel_count=2)
    responses = await rpc.talk(doors.stub, [opening, *map(rpc.audio, cut(file, 640))])
    finals = {final.channel: final.text for final in rpc.finals(responses)}
    assert finals == {0: SAID, 1: ""}


@every_file
async def test_a_finalize_amid_a_stream(doors: Doors, name: str) -> None:
    packets = cut(FILES[name], 640)
    half = len(packets) // 2
    requests = [
        rpc.config(encoding=encoding(name)),
        *map(rpc.audio, packets[:half]),
        rpc.finalize("now"),
        *map(rpc.audio, packets[half:]),
    ]
    first, last = rpc.finals(await rpc.talk(doors.stub, requests))
    assert (first.finalize_tag, bool(first.text), bool(last.text)) == ("now", True, True)


async def test_a_pause_without_packets_ends_an_utterance(doors: Doors) -> None:
    opening = rpc.config(encoding=pb.AUDIO_ENCODING_FLAC, fill_gaps_after_ms=200)
    opening.config.endpointing.trailing_silence_ms = 500
    call = doors.stub.Recognize()
    await call.write(opening)
    for packet in cut(FILES["FLAC"], 640):
        await call.write(rpc.audio(packet))
    said = ""
    async for response in call:
        if response.result.is_final and response.result.text:
            assert response.result.final_reason == pb.FINAL_REASON_ENDPOINT
            said = f"{said} {response.result.text}".strip()
            if said == SAID:
                break
    call.cancel()
    assert said == SAID


async def test_what_was_heard_of_a_damaged_stream_comes_before_the_error(doors: Doors) -> None:
    data = FILES["FLAC"]
    spoiled = data[: len(data) * 2 // 3] + bytes(1_000_000)
    call = doors.stub.Recognize()
    await call.write(rpc.config(encoding=pb.AUDIO_ENCODING_FLAC))
    for packet in cut(spoiled, 64_000):
        await call.write(rpc.audio(packet))
        if packet == bytes(64_000):
            break
    responses: list[pb.RecognizeResponse] = []

    async def read() -> None:
        async for response in call:
            responses.append(response)  # noqa: PERF401 - those before the error are kept

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert rpc.bad_fields(caught.value) == ["audio"]
    assert "audio is a damaged FLAC stream" in str(caught.value.details())
    (final,) = rpc.finals(responses)
    assert final.text and SAID.startswith(final.text.rsplit(" ", 1)[0])
    assert final.final_reason == pb.FINAL_REASON_ENDED_BY_SERVER


async def test_refusals_name_the_field_and_what_would_be_right(doors: Doors) -> None:
    opening = rpc.config(encoding=pb.AUDIO_ENCODING_FLAC, sample_rate_hertz=8_000)
    error = await rpc.failure(doors.stub, [opening, rpc.audio(FILES["FLAC"])])
    assert rpc.bad_fields(error) == ["config.sample_rate_hertz"]
    heard = await over_websocket(doors, FILES["OGG_OPUS"], enc="webm_opus")
    assert (heard.code, heard.error["field"]) == (1008, "audio")
    assert "begins as an Ogg file (Opus, Vorbis)" in heard.error["message"]
    heard = await over_websocket(doors, PCM, enc="auto")
    assert "raw samples need their encoding" in heard.error["message"]


async def test_minutes_of_silence_in_a_packet_hold_nobody_up(doors: Doors) -> None:
    """Its stream goes on as fast as it is recognized, and another beside it has its words."""
    silent = compressed(bytes(2 * RATE * 1_200), "flac", frame_size="65535")
    call = doors.stub.Recognize()
    await call.write(rpc.config(encoding=pb.AUDIO_ENCODING_FLAC))
    for packet in cut(silent, 1_000_000):
        await call.write(rpc.audio(packet))
    assert await rpc.transcribe(doors.stub, PCM) == SAID
    call.cancel()


async def test_what_is_served_lists_them(doors: Doors) -> None:
    info = await doors.stub.GetServiceInfo(pb.GetServiceInfoRequest())
    assert set(info.encodings) == set(pb.AudioEncoding.values()) - {pb.AUDIO_ENCODING_UNSPECIFIED}

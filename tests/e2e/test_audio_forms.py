"""One clip in every form that files, headers and packets may give it, over each door: its words, or why not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc.aio
import numpy as np
import pytest
import soundfile
import soxr

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from tests.support import riva, rpc
from tests.support.audio import cut
from tests.support.audio_files import LIST, UNFINISHED, wav, written
from tests.support.bridge import CLOSE, Bridge, talk
from tests.support.process import PATIENCE_S, ROOT, AsrService
from tests.support.three_doors import Doors, connected
from tests.unit.recognition.test_containers import EXAMPLES

CLIP, RATE = soundfile.read(ROOT / "asr_service/assets/clips/clip5.wav", dtype="int16")
SAID = "remind me to call martin on monday"
PCM = CLIP.tobytes()
REFUSED = [
    name for name in EXAMPLES if name not in ("a data URI", "an IFF file (8SVX)", "an IFF file (16SV)")
]

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


Door = Callable[[Doors, list[bytes], int], Awaitable[str]]
"""Sends packets of a stream of a stated rate; returns its words, or why it was refused."""


async def over_grpc(doors: Doors, packets: list[bytes], rate: int) -> str:
    opening = rpc.config(sample_rate_hertz=rate, interim_results=False)
    return await words_or_refusal(lambda: rpc.talk(doors.stub, [opening, *map(rpc.audio, packets)]), rpc.text)


async def over_riva(doors: Doors, packets: list[bytes], rate: int) -> str:
    opening = riva.opening(interims=False, sample_rate_hertz=rate, endpointing_config=riva.pause(10_000))
    return await words_or_refusal(
        lambda: riva.talk(doors.riva, [opening, *map(riva.audio, packets)]), riva.text
    )


async def over_websocket(doors: Doors, packets: list[bytes], rate: int) -> str:
    init = {"op": "init", "sid": "call-17", "sr": rate, "interim": False}
    heard = await talk(doors.bridge, [json.dumps(init), *packets, CLOSE])
    if heard.code == 1000:
        return str(heard.final["text"])
    assert (heard.code, heard.error["code"]) == (1008, "invalid_argument"), heard.messages
    return str(heard.error["message"])


async def words_or_refusal(attempt: Callable[[], Awaitable[Any]], words: Callable[[Any], str]) -> str:
    try:
        return words(await attempt())
    except grpc.aio.AioRpcError as error:
        return refusal(await rpc.told(attempt) if error.details() == rpc.MADE_UP else error)


def refusal(error: grpc.aio.AioRpcError) -> str:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    (field,) = rpc.bad_fields(error)
    message = str(error.details())
    assert message.startswith(field)
    return message


DOORS: dict[str, Door] = {"asr.v1": over_grpc, "Riva": over_riva, "WebSocket": over_websocket}
every_door = pytest.mark.parametrize("door", DOORS)
STREAMED: dict[str, list[bytes]] = {
    "raw": cut(PCM, 640),
    "a WAV file": cut(wav(PCM), 640),
    "a WAV file in odd packets": cut(wav(PCM, before=LIST), 331),
    "a WAV file with a comment behind": cut(wav(PCM, after=LIST * 300), 640),
    "a WAV file in every packet": [wav(packet) for packet in cut(PCM, 6_400)],
    "an unfinished one in every packet": [wav(packet, size=0) for packet in cut(PCM, 6_400)],
    **{f"a size of {size:#x}": cut(wav(PCM, size=size, riff=size), 640) for size in UNFINISHED},
}


@every_door
async def test_headers_are_no_words(doors: Doors, door: str) -> None:
    heard = {form: await DOORS[door](doors, packets, RATE) for form, packets in STREAMED.items()}
    assert heard == dict.fromkeys(STREAMED, SAID)


@every_door
async def test_files_and_text_in_place_of_raw_audio_are_refused_by_name(doors: Doors, door: str) -> None:
    for name in REFUSED:
        data = EXAMPLES[name]
        for size in (len(data), 7) if len(data) < 100 else (len(data), 640):
            message = await DOORS[door](doors, cut(data, size), RATE)
            assert message.startswith(f"audio begins as {name}; it should be raw samples"), (name, size)


@every_door
async def test_a_header_of_another_rate_is_an_error_that_names_both(doors: Doors, door: str) -> None:
    message = await DOORS[door](doors, [wav(PCM, rate=8_000)], 16_000)
    assert "16000" in message and "8000" in message, message
    later = await DOORS[door](doors, [wav(PCM[:6_400]), wav(PCM[6_400:], rate=8_000)], RATE)
    assert "8000 Hz" in later and "16000 Hz" in later, later


async def upload(doors: Doors, audio: bytes, **config: int) -> str:
    """The words of Riva's unary call, or why it was refused."""
    wanted = riva.recognition(**({"encoding": 0, "sample_rate_hertz": 0, "audio_channel_count": 0} | config))
    try:
        response = await doors.riva.Recognize(riva.rasr.RecognizeRequest(config=wanted, audio=audio))
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    return " ".join(result.alternatives[0].transcript for result in response.results)


def resampled(rate: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return np.rint(soxr.resample(CLIP.astype(np.float64), RATE, rate, "VHQ")).astype(np.int16)  # type: ignore[no-any-return]


UPLOADED: dict[str, bytes] = {
    "raw": PCM,
    **{
        f"{form} {kind}": written(CLIP, form, kind)
        for form, kind in (
            *(("WAV", kind) for kind in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "MS_ADPCM")),
            *(("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("W64", "PCM_24"), ("AU", "PCM_32"), ("CAF", "ALAC_16")),
            *(("RF64", "FLOAT"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")),
        )
    },
    "big-endian WAV": written(CLIP, "WAV", "PCM_16", endian="BIG"),
    "files behind each other": wav(PCM[:32_000]) + wav(PCM[32_000:]),
    **{f"a size of {size:#x}": wav(PCM, size=size, riff=size) for size in UNFINISHED},
    **{
        f"float, a size of {size:#x}": wav((CLIP / 32768).astype("<f4").tobytes(), size=size, kind=3, bits=32)
        for size in UNFINISHED
    },
    **{f"{rate} Hz": written(resampled(rate), "WAV", "PCM_16", rate) for rate in (44_100, 96_000, 192_000)},
}


async def test_uploads_of_every_form_are_heard_as_the_clip(doors: Doors) -> None:
    heard = {form: await upload(doors, audio) for form, audio in UPLOADED.items()}
    assert heard == dict.fromkeys(UPLOADED, SAID)


async def test_what_is_too_loud_is_heard_as_a_player_plays_it(doors: Doors) -> None:
    loud = CLIP / 32768 * (2 / np.abs(CLIP / 32768).max())
    clipped = (np.clip(loud, -1, 1) * 32767).astype(np.int16)
    assert await upload(doors, written(loud, "WAV", "FLOAT")) == await upload(doors, clipped.tobytes()) != ""


async def test_what_cannot_be_served_names_the_rate_of_the_file_and_what_the_caller_set(doors: Doors) -> None:
    fast = written(CLIP, "WAV", "FLOAT", 384_000)
    assert await upload(doors, fast) == "audio is a file of 384000 Hz; it should have 8000 to 192000"
    many = written(np.stack([CLIP] * 3, axis=1), "FLAC", "PCM_16")
    assert await upload(doors, many) == "audio is a file of 3 channels; it should have 1 to 2"
    contradicted = await upload(doors, written(CLIP, "FLAC", "PCM_16"), sample_rate_hertz=8_000)
    assert contradicted.startswith("config.sample_rate_hertz is 8000, and the audio is a file of 16000 Hz")
    for name in ("a WebM or Matroska file", "an MP4 file (M4A, MOV)", "base64 text"):
        assert (await upload(doors, EXAMPLES[name])).startswith(f"audio begins as {name}")

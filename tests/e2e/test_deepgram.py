"""Deepgram's live protocol through a real bridge and a real service: the words are those of `Recognize`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asr.v1 import asr_pb2 as pb
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from asr_service.access.api_keys import new_key
from tests.support.audio import cut, silence, speechlike
from tests.support.bridge import Bridge, Heard, admit, listen, result, scripted_service
from tests.support.compressed import compressed, decoded
from tests.support.process import PATIENCE_S, AsrService
from tests.support.rpc import Stub, transcribe, until_active

RAW = "encoding=linear16&sample_rate=16000"
CLOSE = '{"type":"CloseStream"}'
FINALIZE = '{"type":"Finalize"}'


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Iterator[Bridge]:
    with Bridge(service.target) as process:
        yield process


def url(bridge: Bridge, query: str) -> str:
    return f"{bridge.url}/v1/listen?{query}"


async def talk(bridge: Bridge, query: str, said: Iterable[str | bytes], **options: Any) -> Heard:
    """One client that reads while it writes, and leaves the closing to the bridge."""
    async with (
        asyncio.timeout(PATIENCE_S),
        connect(url(bridge, query), compression=None, **options) as client,
    ):
        listening = asyncio.create_task(listen(client))
        with contextlib.suppress(ConnectionClosed):  # what was heard tells why
            for message in said:
                await client.send(message)
        return await listening


async def refused(bridge: Bridge, query: str, **options: Any) -> tuple[int, dict[str, Any], Any]:
    """Status, body and headers of a handshake that is not accepted."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(url(bridge, query), **options)
    answer = caught.value.response
    return answer.status_code, json.loads(answer.body), answer.headers


def finals(heard: Heard, channel: int = 0) -> list[dict[str, Any]]:
    return [
        message
        for message in heard.messages
        if message["type"] == "Results" and message["is_final"] and message["channel_index"][0] == channel
    ]


def text(heard: Heard, channel: int = 0) -> str:
    said = [final["channel"]["alternatives"][0]["transcript"] for final in finals(heard, channel)]
    return " ".join(one for one in said if one)


@pytest.mark.parametrize("size", [333, 640, 100_000])
@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (RAW, {}),
        ("encoding=mulaw", {"encoding": pb.AUDIO_ENCODING_MULAW, "sample_rate_hertz": 8_000}),
        ("encoding=linear16&sample_rate=48000", {"sample_rate_hertz": 48_000}),
    ],
)
async def test_a_whole_stream(
    bridge: Bridge, stub: Stub, query: str, fields: dict[str, Any], size: int
) -> None:
    pcm = speechlike(1.5, seed=7) + silence(1.0) + speechlike(1.0, seed=8)
    expected = await transcribe(stub, pcm, **fields)
    heard = await talk(bridge, f"{query}&interim_results=true", [*cut(pcm, size), CLOSE])
    assert (heard.code, heard.reason) == (1000, "")
    assert text(heard) == expected != ""
    *results, metadata = heard.messages
    assert {message["type"] for message in results} == {"Results"}
    assert any(not message["is_final"] for message in results)
    assert metadata["type"] == "Metadata"
    words = [word for final in finals(heard) for word in final["channel"]["alternatives"][0]["words"]]
    assert " ".join(word["word"] for word in words) == expected
    assert all(one["start"] <= one["end"] <= two["start"] for one, two in itertools.pairwise(words))
    ends = [final["start"] + final["duration"] for final in finals(heard)]
    assert ends == sorted(ends) and ends[-1] == pytest.approx(metadata["duration"])


async def test_pauses_and_events() -> None:
    """Each result of a live stream, which a service that is sent a file at once leaves out."""
    query = f"{RAW}&interim_results=true&vad_events=true&utterance_end_ms=1000&endpointing=300"
    ended = result("one", final=True)
    ended.result.final_reason = pb.FINAL_REASON_ENDPOINT
    ended.result.words.add(word="one", start_ms=100, end_ms=400)
    said: list[tuple[int, str | pb.RecognizeResponse]] = [
        (160, ""),
        (320, "one"),
        (800, ended),
        (1_280, ""),
        (1_440, ""),
        (1_600, "two"),
        (1_760, "two"),
    ]

    async def handler(requests: Any, context: Any) -> None:
        config = (await anext(requests)).config
        assert config.interim_results and config.endpointing.trailing_silence_ms == 300
        await admit(context)
        for audio_ms, text in said:
            response = result(text, final=False) if isinstance(text, str) else text
            response.audio_processed_ms = audio_ms
            await context.write(response)
        async for _ in requests:
            pass

    async with scripted_service(handler) as target:
        with Bridge(target) as bridge:
            await bridge.ready()
            heard = await talk(bridge, query, [CLOSE])
    events = [message for message in heard.messages if message["type"] in ("SpeechStarted", "UtteranceEnd")]
    assert events == [
        {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 0.16},
        {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 0.4},
        {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 1.44},
    ]
    at = heard.messages.index(events[1])
    assert heard.messages[at - 1]["speech_final"] and heard.messages[at + 1] == events[2]


async def test_finalize_keep_alive_and_an_empty_message_at_the_end(bridge: Bridge) -> None:
    heard = await talk(bridge, RAW, [speechlike(1.0), '{"type":"KeepAlive"}', FINALIZE, speechlike(0.5), b""])
    assert heard.code == 1000
    assert [final["from_finalize"] for final in finals(heard)].count(True) == 1
    asked = next(final for final in finals(heard) if final["from_finalize"])
    assert asked["channel"]["alternatives"][0]["transcript"]


async def test_two_channels(bridge: Bridge, stub: Stub) -> None:
    sides = [speechlike(1.2, seed=seed) for seed in (21, 22)]
    both = np.stack([np.frombuffer(side, "<i2") for side in sides], 1).tobytes()
    query = f"{RAW}&channels=2&multichannel=true&interim_results=true"
    heard = await talk(bridge, query, [*cut(both, 1_280), FINALIZE, CLOSE])
    assert heard.code == 1000
    for channel, side in enumerate(sides):
        assert text(heard, channel) == await transcribe(stub, side) != ""
        assert sum(final["from_finalize"] for final in finals(heard, channel)) == 1
    assert heard.messages[-1]["channels"] == 2


@pytest.mark.parametrize("size", [1, 50, 10_000])
async def test_a_wav_file(bridge: Bridge, stub: Stub, size: int) -> None:
    pcm = speechlike(1.0, seed=9, rate=8_000)
    header = struct.pack("<HHIIHH", 1, 1, 8_000, 16_000, 2, 16)
    sizes = (len(pcm) + 36, len(header), len(pcm))
    wav = b"RIFF%bWAVEfmt %b%bdata%b" % (
        struct.pack("<I", sizes[0]),
        struct.pack("<I", sizes[1]),
        header,
        struct.pack("<I", sizes[2]),
    )
    heard = await talk(bridge, "model=nova-3", [*cut(wav, size), *cut(pcm, 640), CLOSE])
    assert heard.code == 1000
    assert text(heard) == await transcribe(stub, pcm, sample_rate_hertz=8_000) != ""


@pytest.mark.parametrize("size", [53, 100_000])
@pytest.mark.parametrize(
    ("form", "query"),
    [
        ("flac", ""),
        ("flac", "encoding=flac&sample_rate=48000"),
        ("ogg_opus", ""),
        ("ogg_opus", "encoding=ogg-opus"),
        ("webm_opus", "model=nova-3"),
        ("matroska", ""),
    ],
)
async def test_compressed_audio(bridge: Bridge, stub: Stub, form: str, query: str, size: int) -> None:
    data = compressed(speechlike(1.0, seed=9, rate=48_000), form, rate=48_000)
    heard = await talk(bridge, f"{query}&interim_results=true", [*cut(data, size), CLOSE])
    assert heard.code == 1000
    assert text(heard) == await transcribe(stub, decoded(data), sample_rate_hertz=48_000) != ""


async def test_two_channels_of_opus_are_one_unless_each_is_asked_for(bridge: Bridge, stub: Stub) -> None:
    sides = [speechlike(1.0, seed=seed, rate=48_000) for seed in (9, 10)]
    both = np.stack([np.frombuffer(side, "<i2") for side in sides], 1).tobytes()
    data = compressed(both, "webm_opus", rate=48_000, channels=2)
    heard = await talk(bridge, "multichannel=true", [*cut(data, 640), CLOSE])
    apart = np.frombuffer(decoded(data, 2), "<i2").reshape(-1, 2)
    for channel in (0, 1):
        side = apart[:, channel].tobytes()
        assert text(heard, channel) == await transcribe(stub, side, sample_rate_hertz=48_000) != ""
    heard = await talk(bridge, "", [*cut(data, 640), CLOSE])
    assert text(heard) == await transcribe(stub, decoded(data, 1), sample_rate_hertz=48_000)
    assert heard.messages[-1]["channels"] == 1


async def test_audio_that_is_not_what_was_said(bridge: Bridge) -> None:
    for query, data, says in (
        (
            "encoding=opus",
            bytes(range(100)),
            "audio does not begin as an Ogg stream of Opus, and encoding is OGG_OPUS",
        ),
        (
            "encoding=flac",
            compressed(bytes(960), "ogg_opus"),
            "audio begins as an Ogg file (Opus, Vorbis), and encoding is FLAC",
        ),
        (
            "encoding=flac",
            compressed(bytes(960), "flac", channels=2),
            "channels is 1, and the audio is a FLAC",
        ),
        ("", b"\x1aE\xdf\xa3" + bytes(9) + b"\x1fC\xb6u" + bytes(9), "audio "),
    ):
        heard = await talk(bridge, query, [data, CLOSE])
        assert heard.code == 1008, heard
        assert heard.reason.removeprefix("DATA-0000: ").startswith(says[:100]), heard.reason


async def test_a_stream_without_audio(bridge: Bridge) -> None:
    for query in (RAW, ""):
        heard = await talk(bridge, query, [CLOSE])
        assert heard.code == 1000 and heard.messages[-1]["type"] == "Metadata"
        assert text(heard) == ""


@pytest.mark.parametrize(
    ("query", "said", "says"),
    [
        ("", b"no audio at all", "DATA-0000: audio is no file that streams take"),
        (RAW, b"fLaC" + bytes(100), "DATA-0000: audio "),
        (f"{RAW}&model=mine", b"\0\0", "model "),
        (f"{RAW}&keyterm=route%2066", b"\0\0", "keyterm[0] has '6'"),
    ],
)
async def test_what_is_refused_once_the_connection_is_open(
    bridge: Bridge, query: str, said: bytes, says: str
) -> None:
    heard = await talk(bridge, query, [said])
    assert heard.code == 1008 and heard.reason.startswith(says)
    error = heard.messages[-1]
    assert error["type"] == "Error"
    # A close frame holds 123 bytes.
    assert error["description"].startswith(heard.reason.removeprefix("DATA-0000: "))


async def test_text_that_says_nothing_does_not_end_a_stream(bridge: Bridge, stub: Stub) -> None:
    pcm = speechlike(1.0, seed=3)
    heard = await talk(bridge, RAW, ['{"op":"init"}', "x", *cut(pcm, 640), CLOSE])
    assert heard.code == 1000
    assert [message["type"] for message in heard.messages[:2]] == ["Error", "Error"]
    assert text(heard) == await transcribe(stub, pcm)


async def test_a_handshake_that_asks_for_what_there_is_not(bridge: Bridge) -> None:
    status, body, headers = await refused(bridge, f"{RAW}&diarize=true")
    assert (status, body["err_code"]) == (400, "Bad Request")
    assert body["err_msg"].startswith("diarize cannot be served") and headers["dg-error"] == body["err_msg"]
    assert headers["dg-request-id"] == body["request_id"]


async def test_a_message_that_is_too_large(service: AsrService) -> None:
    with Bridge(service.target, ASR_BRIDGE_MAX_MESSAGE_BYTES=4096) as bridge:
        await bridge.ready()
        heard = await talk(bridge, RAW, [bytes(5000)])
        assert heard.code == 1009
        assert "4096 bytes" in heard.messages[-1]["description"]


async def test_keys(tmp_path: Path) -> None:
    key, line = new_key("alice", 1)
    path = tmp_path / "keys"
    path.write_text(line)
    with AsrService(ASR_API_KEYS_FILE=path) as service, Bridge(service.target) as bridge:
        await bridge.ready()
        for options in (
            {"additional_headers": {"Authorization": f"Token {key}"}},
            {"additional_headers": {"Authorization": f"Bearer {key}"}},
            {"subprotocols": ["token", key]},
        ):
            heard = await talk(bridge, RAW, [speechlike(1.0), CLOSE], **options)
            assert heard.code == 1000 and text(heard)
        for options in ({}, {"additional_headers": {"Authorization": "Token wrong"}}):
            status, body, _ = await refused(bridge, RAW, **options)
            assert (status, body["err_code"]) == (401, "INVALID_AUTH")
            assert "Authorization: Token KEY" in body["err_msg"]
        assert bridge.stop() == 0
        assert key not in bridge.output + service.output


async def test_no_service() -> None:
    with Bridge("127.0.0.1:1") as bridge:
        status, body, headers = await refused(bridge, RAW)
        assert (status, body["err_code"]) == (503, "SERVICE_UNAVAILABLE")
        assert headers["Retry-After"] == "1"


async def test_no_free_stream() -> None:
    with AsrService(ASR_MAX_STREAMS=1) as service, Bridge(service.target) as bridge:
        await bridge.ready()
        async with connect(url(bridge, f"{RAW}&interim_results=true")) as client:
            await client.send(speechlike(1.0))
            await client.recv()
            heard = await talk(bridge, RAW, [])
            assert (heard.code, heard.messages[-1]["variant"]) == (1011, "resource_exhausted")


async def test_a_client_that_leaves_gives_its_slot_back(bridge: Bridge, stub: Stub) -> None:
    async with connect(url(bridge, f"{RAW}&interim_results=true")) as client:
        await client.send(speechlike(1.0))
        await client.recv()
    await until_active(stub, 0)


async def test_a_service_that_is_lost() -> None:
    async def handler(requests: Any, context: Any) -> None:
        await admit(context)
        await context.write(result("what was heard", final=False))
        await anext(requests)
        await asyncio.Event().wait()

    async with contextlib.AsyncExitStack() as stack:
        target = await stack.enter_async_context(scripted_service(handler))
        with Bridge(target) as bridge:
            await bridge.ready()
            client = await connect(url(bridge, f"{RAW}&interim_results=true"))
            await client.recv()
            await stack.aclose()
            heard = await listen(client)
    final, error = heard.messages
    assert final["is_final"] and final["channel"]["alternatives"][0]["transcript"] == "what was heard"
    assert heard.code == 1011 and heard.reason.startswith("NET-0000: ") and error["type"] == "Error"


async def test_a_quiet_client_is_told(impatient: AsrService) -> None:
    with Bridge(impatient.target) as bridge:
        await bridge.ready()
        heard = await talk(bridge, RAW, [b"\0\0"])
        assert heard.code == 1011 and heard.reason.startswith("NET-0001: nothing was received for ")
        assert "KeepAlive" in heard.reason


async def test_a_drain_ends_streams_with_their_last_final(service: AsrService) -> None:
    with Bridge(service.target, ASR_DRAIN_S=0) as bridge:
        await bridge.ready()
        async with connect(url(bridge, f"{RAW}&interim_results=true&endpointing=false")) as client:
            await client.send(speechlike(1.0))
            await client.recv()
            assert await asyncio.to_thread(bridge.stop) == 0
            heard = await listen(client)
    assert text(heard) and heard.code == 1011 and "shutting down" in heard.reason

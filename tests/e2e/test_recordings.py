"""Whole recordings sent by POST through a real bridge and a real service: the words are those of `Recognize`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import numpy as np
import pytest
import soundfile
from asr.v1 import asr_pb2 as pb

from asr_service.access.api_keys import new_key
from tests.support.audio import cut, silence, speechlike
from tests.support.bridge import Bridge, admit, result, scripted_service
from tests.support.certificates import Authority
from tests.support.compressed import compressed
from tests.support.compressed import decoded as by_ffmpeg
from tests.support.posting import Answer, form, post, posting, request
from tests.support.process import AsrService
from tests.support.rpc import Stub, transcribe, until_active

LISTEN = "/v1/listen"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
PCM = speechlike(1.5, seed=91) + silence(1.0) + speechlike(1.0, seed=92)


@pytest.fixture(scope="module")
def bridge(service: AsrService) -> Iterator[Bridge]:
    with Bridge(service.target) as process:
        yield process


def file(
    pcm: bytes = PCM, form: str = "WAV", subtype: str = "PCM_16", rate: int = 16_000, channels: int = 1
) -> bytes:
    """A file as libsndfile writes it."""
    written = io.BytesIO()
    samples = np.frombuffer(pcm, "<i2").reshape(-1, channels)
    soundfile.write(written, samples, rate, format=form, subtype=subtype)
    return written.getvalue()


def decoded(data: bytes) -> bytes:
    """16-bit samples of a file."""
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    return bytes(np.minimum(np.rint(np.clip(samples, -1, 1) * 32768), 32767).astype("<i2").tobytes())


def transcript(answer: Answer, channel: int = 0) -> str:
    assert answer.status == 200, answer.body
    best = answer.json["results"]["channels"][channel]["alternatives"][0]
    text: str = best["transcript"]
    return text


async def transcribed(bridge: Bridge, *parts: tuple[str, str | bytes]) -> Answer:
    body, headers = form(parts)
    return await post(bridge.port, TRANSCRIPTIONS, body, headers)


# ------------------------------------------------------------------------------------------------------------- Deepgram


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        *(("WAV", kind) for kind in ("PCM_16", "ULAW", "ALAW", "PCM_24", "FLOAT", "IMA_ADPCM")),
        *(
            ("FLAC", "PCM_16"),
            ("OGG", "VORBIS"),
            ("OGG", "OPUS"),
            ("MP3", "MPEG_LAYER_III"),
            ("AIFF", "PCM_16"),
        ),
    ],
)
async def test_files_of_each_kind(bridge: Bridge, stub: Stub, container: str, subtype: str) -> None:
    data = file(form=container, subtype=subtype)
    answer = await post(
        bridge.port, f"{LISTEN}?model=nova-3&punctuate=true", data, {"Content-Type": "audio/x"}
    )
    # Opus is decoded by the service, at its own rate.
    pcm, rate = (by_ffmpeg(data, 1), 48_000) if subtype == "OPUS" else (decoded(data), 16_000)
    assert transcript(answer) == await transcribe(stub, pcm, sample_rate_hertz=rate) != ""
    metadata = answer.json["metadata"]
    assert metadata["sha256"] == hashlib.sha256(data).hexdigest()
    assert (metadata["channels"], answer.headers["dg-request-id"]) == (1, metadata["request_id"])
    assert metadata["duration"] == pytest.approx(3.5, abs=0.1)
    best = answer.json["results"]["channels"][0]["alternatives"][0]
    assert " ".join(word["punctuated_word"] for word in best["words"]) == best["transcript"]
    assert 0 < best["confidence"] <= 1


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("form", ["webm_opus", "ogg_opus", "flac"])
async def test_what_a_browser_records(bridge: Bridge, stub: Stub, form: str, channels: int) -> None:
    data = compressed(PCM * channels, form, rate=16_000, channels=channels)
    pcm = by_ffmpeg(data, None if form == "flac" else channels)
    sides = np.frombuffer(pcm, "<i2").reshape(-1, channels)
    rate = 16_000 if form == "flac" else 48_000
    answer = await post(bridge.port, f"{LISTEN}?multichannel=true", cut(data, 700))
    for channel in range(channels):
        expected = await transcribe(stub, sides[:, channel].tobytes(), sample_rate_hertz=rate)
        assert transcript(answer, channel) == expected != ""
    if form != "flac":
        mixed = await transcribe(stub, by_ffmpeg(data, 1), sample_rate_hertz=rate)
        assert (await transcribed(bridge, ("model", "whisper-1"), ("file", data))).json["text"] == mixed
        assert transcript(await post(bridge.port, LISTEN, data)) == mixed


@pytest.mark.parametrize("size", [1_000, 70_000])
@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("encoding=linear16&sample_rate=16000", {}),
        ("encoding=mulaw", {"encoding": pb.AUDIO_ENCODING_MULAW, "sample_rate_hertz": 8_000}),
    ],
)
async def test_raw_audio_that_comes_in_pieces(
    bridge: Bridge, stub: Stub, query: str, fields: dict[str, Any], size: int
) -> None:
    answer = await post(bridge.port, f"{LISTEN}?{query}", cut(PCM, size), {"Authorization": "Token any"})
    assert transcript(answer) == await transcribe(stub, PCM, **fields)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
async def test_two_channels_are_mixed_or_told_apart(bridge: Bridge, stub: Stub, subtype: str) -> None:
    sides = [speechlike(1.2, seed=seed) for seed in (93, 94)]
    both = np.stack([np.frombuffer(side, "<i2") for side in sides], 1)
    data = file(both.tobytes(), subtype=subtype, channels=2)
    answer = await post(bridge.port, f"{LISTEN}?multichannel=true", data)
    assert [transcript(answer, channel) for channel in (0, 1)] == [
        await transcribe(stub, side) for side in sides
    ]
    assert answer.json["metadata"]["channels"] == 2
    mixed = (both.astype(np.float32) / 32768).mean(axis=1, dtype=np.float32)
    expected = await transcribe(stub, np.rint(mixed * 32768).astype("<i2").tobytes())
    assert transcript(await post(bridge.port, LISTEN, data)) == expected


async def test_utterances(bridge: Bridge, stub: Stub) -> None:
    answer = await post(bridge.port, f"{LISTEN}?utterances=true&utt_split=0.5", file())
    utterances = answer.json["results"]["utterances"]
    assert len(utterances) >= 2
    assert (
        " ".join(one["transcript"] for one in utterances) == transcript(answer) == await transcribe(stub, PCM)
    )
    for one in utterances:
        assert one["channel"] == 0 and one["start"] < one["end"] and one["words"]
    assert len({one["id"] for one in utterances}) == len(utterances)


@pytest.mark.parametrize("stated", [0, 100, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
async def test_wav_files_whose_header_was_never_finished(
    bridge: Bridge, stub: Stub, subtype: str, stated: int
) -> None:
    data = bytearray(file(subtype=subtype))
    at = data.index(b"data") + 4
    data[at : at + 4] = stated.to_bytes(4, "little")
    data[4:8] = (0).to_bytes(4, "little")
    assert transcript(await post(bridge.port, LISTEN, bytes(data))) == await transcribe(stub, PCM)


@pytest.mark.parametrize(
    ("query", "body", "headers", "says"),
    [
        ("", b"", {}, "audio is empty"),
        ("", b"no audio at all, only text", {}, "audio is no file that can be read"),
        ("", b"RIFF\0\0\0\0WAVEfmt ", {}, "audio is a WAV file that ends in its header"),
        ("", file(form="FLAC")[:200], {}, "audio "),
        ("?diarize=true", file(), {}, "diarize cannot be served"),
        ("?utt_split=0", file(), {}, "utt_split is '0': it should be 0.1 to 10"),
        ("?keyterm=route%2066", file(), {}, "keyterm[0] has '6'"),
        ("?encoding=linear16&sample_rate=16000", b"fLaC" + bytes(100), {}, "audio begins as a FLAC file"),
        ("?multichannel=true", file(bytes(600), subtype="PCM_24", channels=3), {}, "audio has 3 channels"),
        ("", b'{"url":"http://x"}', {"Content-Type": "application/json"}, "url cannot be fetched here"),
    ],
)
async def test_what_cannot_be_served(
    bridge: Bridge, query: str, body: bytes, headers: dict[str, str], says: str
) -> None:
    answer = await post(bridge.port, LISTEN + query, body, headers)
    assert (answer.status, answer.json["err_code"]) == (400, "Bad Request")
    assert answer.json["err_msg"].startswith(says), answer.json
    assert answer.headers["dg-request-id"] == answer.json["request_id"]


# --------------------------------------------------------------------------------------------------------------- OpenAI


async def test_each_format_of_a_transcription(bridge: Bridge, stub: Stub) -> None:
    expected = await transcribe(stub, PCM)
    data = file(form="FLAC")

    async def ask(*parts: tuple[str, str | bytes]) -> Answer:
        answer = await transcribed(bridge, ("file", data), ("model", "whisper-1"), *parts)
        assert answer.status == 200, answer.body
        return answer

    plain = await ask()
    assert plain.json == {"text": expected, "usage": {"type": "duration", "seconds": 3.5}}
    text = await ask(("response_format", "text"))
    assert (text.body.decode(), text.headers["content-type"]) == (
        expected + "\n",
        "text/plain; charset=utf-8",
    )
    verbose = (
        await ask(
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities[]", "segment"),
        )
    ).json
    assert (verbose["text"], verbose["duration"]) == (expected, 3.5)
    assert " ".join(word["word"] for word in verbose["words"]) == expected
    assert " ".join(segment["text"] for segment in verbose["segments"]) == expected
    assert "words" not in (await ask(("response_format", "verbose_json"))).json
    for kind, mark in (("srt", ","), ("vtt", ".")):
        shown = (await ask(("response_format", kind))).body.decode()
        time = rf"\d\d:\d\d:\d\d\{mark}\d{{3}}"
        captions = re.findall(rf"^{time} --> {time}\n(.+)$", shown, re.MULTILINE)
        assert " ".join(captions) == expected and len(captions) >= 2
        assert shown.startswith("1\n" if kind == "srt" else "WEBVTT\n\n")


@pytest.mark.parametrize("order", [1, -1])
async def test_a_transcription_that_is_streamed(bridge: Bridge, stub: Stub, order: int) -> None:
    parts: list[tuple[str, str | bytes]] = [
        ("file", file()),
        ("model", "gpt-4o-transcribe"),
        ("stream", "true"),
    ]
    answer = await transcribed(bridge, *parts[::order])
    *deltas, done = answer.events
    assert {event["type"] for event in deltas} == {"transcript.text.delta"} and len(deltas) > 1
    expected = await transcribe(stub, PCM)
    assert done["type"] == "transcript.text.done"
    assert "".join(event["delta"] for event in deltas) == done["text"] == expected


@pytest.mark.parametrize(
    ("parts", "param", "says"),
    [
        ([("model", "whisper-1")], "file", "the form has no file"),
        ([("file", b"")], "audio", "audio is empty"),
        ([("file", b"text in place of audio")], "audio", "audio is no file that can be read"),
        ([("file", file()), ("file", file())], "form", "the form has more than one file"),
        ([("file", file()), ("response_format", "xml")], "response_format", "response_format is 'xml'"),
        ([("file", file()), ("response_format", "diarized_json")], "response_format", "response_format is"),
        ([("file", file()), ("stream", "yes")], "stream", "stream is 'yes'"),
        (
            [("file", file()), ("stream", "true"), ("response_format", "srt")],
            "stream",
            "stream cannot be true",
        ),
        (
            [("file", file()), ("timestamp_granularities", "letter")],
            "timestamp_granularities",
            "timestamp_gran",
        ),
        ([("file", file()), ("language", "x" * 36)], "language", "language is 'xxx"),
        ([("file", file()), ("look_ahead_ms", "-1")], "look_ahead_ms", "look_ahead_ms is '-1'"),
        ([("file", file()), ("keywords[]", "route 66")], "keywords[0]", "keywords[0] has '6'"),
        ([("file", file()), ("model", "mine")], "model", "model "),
        (
            [("prompt", "x" * 300_000), ("file", file())],
            "form",
            "the form has fields of more than 262144 bytes",
        ),
    ],
)
async def test_forms_that_cannot_be_served(
    bridge: Bridge, parts: list[tuple[str, str | bytes]], param: str, says: str
) -> None:
    answer = await transcribed(bridge, *parts)
    error = answer.json["error"]
    assert (answer.status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"].startswith(says), error


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "application/json"),
        (b"x", "multipart/form-data"),
        (b"--x\r\nnonsense\r\n\r\n", "multipart/form-data; boundary=x"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data; boundary=x"),
    ],
)
async def test_bodies_that_are_no_forms(bridge: Bridge, body: bytes, kind: str) -> None:
    answer = await post(bridge.port, TRANSCRIPTIONS, body, {"Content-Type": kind})
    assert (answer.status, answer.json["error"]["param"]) == (400, "form")


# ----------------------------------------------------------------------------------------------------------------- HTTP


async def test_a_client_that_waits_to_be_told_to_go_on(bridge: Bridge, stub: Stub) -> None:
    headers = {"Content-Length": str(len(file())), "Expect": "100-continue"}
    async with posting(bridge.port) as one:
        await one.send(request(LISTEN, headers))
        told = await one.event()
        assert isinstance(told, h11.InformationalResponse) and told.status_code == 100
        await one.send(h11.Data(data=file()), h11.EndOfMessage())
        assert transcript(await one.answer()) == await transcribe(stub, PCM)
    async with posting(bridge.port) as one:
        await one.send(request(f"{LISTEN}?diarize=true", headers))
        assert (await one.answer()).status == 400, "before anything was sent"


async def test_recordings_that_are_too_large(service: AsrService) -> None:
    with Bridge(service.target, ASR_BRIDGE_MAX_UPLOAD_BYTES=100_000) as bridge:
        await bridge.ready()
        big = file(speechlike(60.0))
        for body in (big, file(speechlike(60.0), form="FLAC")):
            answer = await post(bridge.port, LISTEN, body)
            assert answer.status == 413 and "more than 100000 bytes" in answer.json["err_msg"]
        body, headers = form([("file", big)])
        answer = await post(bridge.port, TRANSCRIPTIONS, body, headers)
        assert answer.status == 413 and answer.json["error"]["param"] == "audio"
        assert transcript(await post(bridge.port, LISTEN, file(speechlike(1.0))))


async def test_a_client_that_leaves_gives_its_slot_back(bridge: Bridge, stub: Stub) -> None:
    async with posting(bridge.port) as one:
        await one.send(
            request(f"{LISTEN}?encoding=linear16&sample_rate=16000", {"Content-Length": "1000000"})
        )
        await one.send(h11.Data(data=PCM))
        await until_active(stub, 1)
    await until_active(stub, 0)
    # A body that ends before its end.
    async with posting(bridge.port) as one:
        await one.send(
            request(f"{LISTEN}?encoding=linear16&sample_rate=16000", {"Content-Length": "1000000"})
        )
        await one.send(h11.Data(data=PCM))
        await until_active(stub, 1)
        one.writer.write_eof()
        assert await one.reader.read() == b""
    await until_active(stub, 0)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /v1/listen HTTP/9\r\n\r\n", 400),
        (b"POST /v1/listen\r\n\r\n", 400),
        (b"POST /v1/listen HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"POST /v1/listen HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /v1/listen HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000, 431),
        (b"POST /v1/listen HTTP/1.1\r\nHost: a\x02\r\nContent-Length: 1\r\n\r\na", 400),
        (b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 404),
    ],
)
async def test_requests_that_are_none(bridge: Bridge, sent: bytes, status: int) -> None:
    async with posting(bridge.port) as one:
        for at in range(0, len(sent), 7_000):
            one.writer.write(sent[at : at + 7_000])
            await one.writer.drain()
        answer = await one.reader.read()
    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert (await bridge.get("/healthz"))[0] == 200


async def test_a_chunk_that_is_none_ends_the_request(bridge: Bridge, stub: Stub) -> None:
    target = f"{LISTEN}?encoding=linear16&sample_rate=16000"
    start = f"POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with posting(bridge.port) as one:
        one.writer.write(start.encode() + b"4\r\nabcd\r\n")
        await until_active(stub, 1)
        one.writer.write(b"nonsense\r\n")
        assert b"200" not in await one.reader.read()
    await until_active(stub, 0)


@pytest.mark.parametrize("start", [b"", b"P", b"POS"])
async def test_clients_that_say_nothing_are_not_waited_for(service: AsrService, start: bytes) -> None:
    with Bridge(service.target, ASR_BRIDGE_OPEN_S=0.3) as bridge:
        async with posting(bridge.port) as one:
            one.writer.write(start)
            with contextlib.suppress(ConnectionResetError):
                assert await one.reader.read() == b""


async def test_a_body_that_stops_coming_is_not_waited_for(service: AsrService) -> None:
    with Bridge(service.target, ASR_BRIDGE_PING_S=0.1) as bridge:
        await bridge.ready()
        async with posting(bridge.port) as one:
            await one.send(request(LISTEN, {"Content-Length": "1000000"}), h11.Data(data=file()[:1000]))
            answer = await one.answer()
    assert answer.status == 408 and "came for too long" in answer.json["err_msg"]


async def test_first_bytes_that_come_one_by_one(bridge: Bridge) -> None:
    """Whatever takes the connection then gets all of them."""
    for sent, status in (
        (b"GET /healthz HTTP/1.1\r\n\r\n", 200),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    ):
        async with posting(bridge.port) as one:
            for byte in sent:
                one.writer.write(bytes([byte]))
                await one.writer.drain()
            assert (await one.reader.read()).startswith(f"HTTP/1.1 {status}".encode())


async def test_keys_and_a_service_that_is_away(tmp_path: Path) -> None:
    key, line = new_key("alice", 4)
    path = tmp_path / "keys"
    path.write_text(line)
    with AsrService(ASR_API_KEYS_FILE=path) as service, Bridge(service.target) as bridge:
        await bridge.ready()
        body, headers = form([("file", file())])
        for scheme in ("Token", "Bearer"):
            answer = await post(bridge.port, LISTEN, file(), {"Authorization": f"{scheme} {key}"})
            assert transcript(answer)
        answer = await post(bridge.port, TRANSCRIPTIONS, body, headers | {"Authorization": f"Bearer {key}"})
        assert answer.json["text"]
        assert (await post(bridge.port, LISTEN, file())).json["err_code"] == "INVALID_AUTH"
        answer = await post(bridge.port, TRANSCRIPTIONS, body, headers | {"Authorization": "Bearer wrong"})
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
        assert bridge.stop() == 0
        assert key not in bridge.output + service.output
    with Bridge("127.0.0.1:1") as bridge:
        answer = await post(bridge.port, LISTEN, file())
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_no_free_stream() -> None:
    with AsrService(ASR_MAX_STREAMS=1) as service, Bridge(service.target) as bridge:
        await bridge.ready()
        async with posting(bridge.port) as one:
            await one.send(request(f"{LISTEN}?encoding=mulaw", {"Content-Length": "1000000"}))
            await one.send(h11.Data(data=PCM))
            await bridge_has_a_stream(service)
            answer = await post(bridge.port, LISTEN, file())
            assert (answer.status, answer.json["err_code"]) == (429, "TOO_MANY_REQUESTS")
            assert int(answer.headers["retry-after"]) >= 1


async def bridge_has_a_stream(service: AsrService) -> None:
    """Returns once the service serves one."""
    import grpc.aio
    from asr.v1 import asr_pb2_grpc

    async with grpc.aio.insecure_channel(service.target) as channel:
        await until_active(asr_pb2_grpc.SpeechServiceStub(channel), 1)


async def test_a_service_that_is_lost_while_a_response_is_streamed() -> None:
    async def handler(requests: Any, context: Any) -> None:
        await admit(context)
        async for _ in requests:
            pass
        interim = result("what was heard", final=False)
        interim.result.stability = 0.5
        await context.write(interim)
        await context.abort(13, "the model broke")

    async with scripted_service(handler) as target:
        with Bridge(target) as bridge:
            await bridge.ready()
            answer = await transcribed(bridge, ("file", file()), ("stream", "true"))
            delta, error = answer.events
            assert (delta["delta"], error["type"]) == ("what was", "error")
            assert error["error"]["type"] == "server_error"
            answer = await transcribed(bridge, ("file", file()))
            # A status without details is the connection's, not the service's.
            assert answer.status == 503 and "lost" in answer.json["error"]["message"]


async def test_limits_origins_and_a_drain(service: AsrService, stub: Stub) -> None:
    settings = {"ASR_BRIDGE_MAX_CONNECTIONS": 1, "ASR_BRIDGE_ORIGINS": "https://a.example", "ASR_DRAIN_S": 0}
    with Bridge(service.target, **settings) as bridge:
        await bridge.ready()
        for origin, status in (("https://b.example", 403), ("https://a.example", 200)):
            assert (await post(bridge.port, LISTEN, file(), {"Origin": origin})).status == status
        async with posting(bridge.port) as one:
            await one.send(request(f"{LISTEN}?encoding=mulaw", {"Content-Length": "1000000"}))
            await one.send(h11.Data(data=PCM))
            await until_active(stub, 1)
            answer = await post(bridge.port, LISTEN, file())
            assert (answer.status, answer.json["status"]) == (503, "too many connections")
            stopping = asyncio.create_task(asyncio.to_thread(bridge.stop))
            answer = await one.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert "shutting down" in answer.json["err_msg"]
        assert await stopping == 0


async def test_a_drain_lets_recordings_finish(service: AsrService, stub: Stub) -> None:
    with Bridge(service.target) as bridge:
        await bridge.ready()
        data = file()
        async with posting(bridge.port) as one:
            await one.send(request(LISTEN, {"Content-Length": str(len(data))}), h11.Data(data=data[:1000]))
            await until_active(stub, 1)
            stopping = asyncio.create_task(asyncio.to_thread(bridge.stop))
            await bridge.said("draining")
            await one.send(h11.Data(data=data[1000:]), h11.EndOfMessage())
            assert transcript(await one.answer()) == await transcribe(stub, PCM)
        assert await stopping == 0


async def test_over_tls_and_beside_websockets(service: AsrService, stub: Stub, tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    cert, key = ca.issue("bridge")
    with Bridge(service.target, ASR_BRIDGE_TLS_CERT=cert, ASR_BRIDGE_TLS_KEY=key) as bridge:
        tls = ssl.create_default_context(cafile=str(ca.cert))
        await bridge.ready(tls)
        answer = await post(bridge.port, LISTEN, file(), tls=tls)
    assert transcript(answer) == await transcribe(stub, PCM)


async def test_an_upload_is_logged_and_counted_without_its_words(service: AsrService) -> None:
    with Bridge(service.target, ASR_LOG_FORMAT="json", ASR_LOG_LEVEL="debug") as bridge:
        await bridge.ready()
        answer = await post(bridge.port, LISTEN, file())
        line = json.loads((await bridge.said("upload ended")).string)
        assert bridge.stop() == 0
    assert (line["outcome"], line["status"], line["audio_bytes"]) == ("ok", 200, len(file()))
    assert line["sid"] == answer.json["metadata"]["request_id"]
    assert transcript(answer).split()[0] not in bridge.output

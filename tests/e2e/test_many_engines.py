"""Several engines behind one port: a stream gets what it asks for as a service of that alone gives it, given room."""

from __future__ import annotations

import asyncio
import json
import shutil
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

from asr_service.model.locate import DEMO_MODEL
from asr_service.model.null import NullModel
from tests.support import polyglot, riva, rpc
from tests.support.audio import cut, speechlike
from tests.support.bridge import CLOSE, Bridge, Heard, talk
from tests.support.process import ROOT, AsrService
from tests.support.streams import recognize
from tests.support.three_doors import Said, connected, serving
from ws_bridge.call import Call


def together(*clips: int) -> bytes:
    """Clips whose speakers talk at the same time: hard to hear, and so not the same with every look-ahead."""
    heard = []
    for number in clips:
        with wave.open(str(ROOT / f"asr_service/assets/clips/clip{number}.wav")) as clip:
            heard.append(np.frombuffer(clip.readframes(clip.getnframes()), "<i2"))
    length = min(map(len, heard))
    mixed = np.sum([clip[:length] for clip in heard], axis=0, dtype=np.int32)
    return bytes(mixed.clip(-32768, 32767).astype("<i2").tobytes())


CLIPS = [together(1, 2), together(3, 4)]
LOOK_AHEADS = {80: "70,1", 1040: "70,13"}
PACKET = 3200


@dataclass
class Many:
    """A service of three models with two look-aheads each, and its bridge.

    Attributes:
        file: of the third model, which is the first one under another name.
        texts: of `CLIPS`, as services hear them that have one engine alone, by their look-ahead.
    """

    service: AsrService
    bridge: Bridge
    file: Path
    texts: dict[int, list[str]]

    async def over_grpc(self, pcm: bytes, **fields: Any) -> str:
        async with grpc.aio.insecure_channel(self.service.target) as channel:
            return await rpc.transcribe(asr_pb2_grpc.SpeechServiceStub(channel), pcm, PACKET, **fields)

    async def over_websocket(self, pcm: bytes, **fields: Any) -> str:
        init = json.dumps({"op": "init", "sid": "call-17", **fields})
        heard = await talk(self.bridge, [init, *cut(pcm, PACKET), CLOSE])
        assert heard.code == 1000, heard.messages
        return str(heard.final["text"])

    async def over_riva(self, pcm: bytes, **fields: Any) -> str:
        opening = riva.opening(
            **fields, enable_automatic_punctuation=True, endpointing_config=riva.pause(10_000)
        )
        async with grpc.aio.insecure_channel(self.service.target) as channel:
            return riva.text(
                await riva.talk(riva.stub_on(channel), [opening, *riva.packets(pcm, PACKET)])
            ).strip()


async def transcribed(service: AsrService) -> list[str]:
    async with grpc.aio.insecure_channel(service.target) as channel:
        stub: rpc.Stub = asr_pb2_grpc.SpeechServiceStub(channel)
        return [await rpc.transcribe(stub, pcm, PACKET) for pcm in CLIPS]


@pytest.fixture(scope="module")
def many(compiled: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    """All at once: a start waits for the disk and for imports more than it computes."""
    file = tmp_path_factory.mktemp("models") / "court.nemo"
    shutil.copy(DEMO_MODEL, file)
    settings: dict[str, Any] = {"ASR_THREADS": 1, "ASR_MAX_LOAD": 0, "ASR_MAX_STREAMS": 16}
    with ExitStack() as stack:
        service = stack.enter_context(
            AsrService(
                **settings,
                ASR_MODEL=f"demo;null;{file}",
                ASR_ATT_CTX=";".join(LOOK_AHEADS.values()),
                ASR_FRONT_ENDS=2,
                wait=False,
            )
        )
        alone = {
            ms: stack.enter_context(AsrService(**settings, ASR_MODEL="demo", ASR_ATT_CTX=context, wait=False))
            for ms, context in LOOK_AHEADS.items()
        }
        texts = {ms: asyncio.run(transcribed(one)) for ms, one in alone.items()}
        for one in alone.values():
            assert one.stop() == 0
        bridge = stack.enter_context(Bridge(service.target))
        yield Many(service, bridge, file, texts)
        assert service.stop() == 0


async def test_look_aheads_at_once_are_heard_as_each_alone(many: Many) -> None:
    assert not {*many.texts[80]} & {*many.texts[1040]}, "they hear differently, or nothing is shown"
    await many.bridge.ready()
    streams = [
        (door, clip, asked)
        for door in ("grpc", "websocket")
        for clip in range(len(CLIPS))
        for asked in (80, 1040, 0)
    ]
    # Riva's protocol has no field for it: what comes first is what a stream gets that asks for none.
    streams += [("riva", clip, 0) for clip in range(len(CLIPS))]
    heard = await asyncio.gather(
        *(
            getattr(many, f"over_{door}")(CLIPS[clip], **({"look_ahead_ms": asked} if asked else {}))
            for door, clip, asked in streams
        )
    )
    for (door, clip, asked), text in zip(streams, heard, strict=True):
        assert text == many.texts[asked or 80][clip] != "", (door, asked)


async def test_models_at_once_by_name(many: Many) -> None:
    """By what they were set as, by the last part of that, in any case; their look-aheads too."""
    pcm = CLIPS[0]
    null = {
        ms: " ".join(
            result.text
            for result in recognize(NullModel(slots=1, att_context=context), pcm, packet=PACKET)
            if result.reason and result.text
        )
        for ms, context in ((80, (70, 1)), (1040, (70, 13)))
    }
    demo = {ms: texts[0] for ms, texts in many.texts.items()}
    named = {"demo": demo, "NULL": null, "court": demo, "Court.nemo": demo, str(many.file): demo}
    await many.bridge.ready()
    streams = [
        (door, name, ms)
        for name in named
        for door, ms in (("grpc", 80), ("grpc", 1040), ("websocket", 1040), ("riva", 80))
    ]
    heard = await asyncio.gather(
        *(
            getattr(many, f"over_{door}")(
                pcm, model=name, **({"look_ahead_ms": ms} if door != "riva" else {})
            )
            for door, name, ms in streams
        )
    )
    for (door, name, ms), text in zip(streams, heard, strict=True):
        assert text == named[name][ms], (door, name, ms)


async def refused(many: Many, **fields: Any) -> tuple[str, str, Heard]:
    """The field and the message of a refusal over gRPC, and what a WebSocket client is told."""
    async with grpc.aio.insecure_channel(many.service.target) as channel:
        error = await rpc.failure(asr_pb2_grpc.SpeechServiceStub(channel), [rpc.config(**fields)])
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (field,) = rpc.bad_fields(error)
    renamed = {"language" if name == "language_code" else name: value for name, value in fields.items()}
    heard = await talk(many.bridge, [json.dumps({"op": "init", "sid": "a", **renamed})])
    assert heard.code == 1008
    return field, error.details() or "", heard


async def test_what_nobody_serves_is_refused_with_what_is_served(many: Many) -> None:
    await many.bridge.ready()
    file = many.file
    for fields, field, says in (
        (
            {"model": "courts"},
            "model",
            f"is 'courts', which is not served; it should be demo, null or {file}, or unset",
        ),
        (
            {"look_ahead_ms": 480},
            "look_ahead_ms",
            "is 480; it should be 80 or 1040 with the model demo, or unset (null has 80 and 1040; "
            f"{file} has 80 and 1040)",
        ),
        # What languages the file's model has, nobody knows.
        (
            {"language_code": "fr-FR"},
            "language_code",
            "must be en-US, not 'fr-FR'; this is about the model demo",
        ),
    ):
        told_field, message, heard = await refused(many, **fields)
        assert (told_field, message) == (f"config.{field}", f"config.{field} {says}")
        own = "language" if field == "language_code" else field
        assert (heard.error["field"], heard.error["message"]) == (own, f"{own} {says}")
    async with grpc.aio.insecure_channel(many.service.target) as channel:
        error = await rpc.told(lambda: riva.talk(riva.stub_on(channel), [riva.opening(model="courts")]))
    assert rpc.bad_fields(error) == ["config.model"]
    assert "it should be demo, null or" in (error.details() or "")


async def test_what_is_served_is_told_with_its_room(many: Many) -> None:
    async with grpc.aio.insecure_channel(many.service.target) as channel:
        stub: rpc.Stub = asr_pb2_grpc.SpeechServiceStub(channel)
        call = Call(stub)
        await call.write(rpc.config(model="null", look_ahead_ms=1040))
        assert await call.admitted()
        told = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
        served = [(one.name, one.look_ahead_ms, one.max_streams, one.active_streams) for one in told.served]
        assert served == [
            (name, ms, 16, int((name, ms) == ("null", 1040)))
            for name in ("demo", "null", str(many.file))
            for ms in LOOK_AHEADS
        ]
        assert (told.model, told.look_ahead_ms) == ("demo", 80)
        assert (told.max_streams, told.active_streams) == (6 * 16, 1)
        call.cancel()
        await rpc.until_active(stub, 0)


async def test_languages_choose_models_where_none_is_named() -> None:
    """The first model knows English alone; the second one is told a language, and says which it heard."""
    pcm = speechlike(2.0, seed=3)
    with serving(FAULT="languages", ASR_MODEL="english;null", ASR_MAX_STREAMS=8) as both:
        async with connected(*both) as doors:
            await both[1].ready()
            english = [Said(await rpc.transcribe(doors.stub, pcm), "en-US")]
            for name, door in doors.all.items():
                (first,), (second,) = await door(pcm, "en"), await door(pcm, "ja-JP")
                assert [first] == english, name
                assert second.text.split()[0] != first.text.split()[0], name
                assert second.language == "ja-JP", name
            error = await rpc.failure(doors.stub, [rpc.config(language_code="fr-FR")])
            assert rpc.bad_fields(error) == ["config.language_code"]
            assert f"this is about the model english; null has {', '.join(polyglot.LANGUAGES)}" in (
                error.details() or ""
            )
            named = [rpc.config(model="null"), rpc.audio(pcm)]
            (final,) = rpc.finals(await rpc.talk(doors.stub, named))
            assert final.language_code == polyglot.FOUND


# ----------------------------------------------------------------------------------------------------------------- room


class Clients:
    """Streams that stay open until they are ended, each over a connection of its own."""

    def __init__(self, target: str, stack: AsyncExitStack) -> None:
        self._target = target
        self._stack = stack
        self._count = 0

    async def channel(self) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(self._target, options=(("grpc.use_local_subchannel_pool", 1),))
        return await self._stack.enter_async_context(channel)

    async def open(self, **fields: Any) -> Call:
        """A stream that was admitted."""
        call = Call(asr_pb2_grpc.SpeechServiceStub(await self.channel()))
        self._stack.callback(call.cancel)
        await call.write(rpc.config(stream_id=f"stream-{self._count}", **fields))
        assert await call.admitted(), await call.outcome()
        self._count += 1
        return call


async def end(call: Call) -> None:
    await call.half_close()
    async for _ in call.responses():
        pass
    assert (await call.outcome()).number == 0


@pytest.fixture
async def clients_of_four() -> AsyncIterator[tuple[AsrService, Clients]]:
    """A service with two engines for each of two look-aheads, three streams each, and clients."""
    service = await asyncio.to_thread(
        AsrService,
        ASR_ENGINES=2,
        ASR_ATT_CTX="70,1;70,13",
        ASR_MAX_STREAMS=3,
        ASR_MAX_LOAD=0,
        ASR_FRONT_ENDS=3,
    )
    with service:
        async with AsyncExitStack() as stack:
            yield service, Clients(service.target, stack)


def engine_of(service: AsrService, number: int) -> int:
    """The engine that has stepped a stream, which has ended."""
    return int(service.wait_line(rf"stream ended stream=stream-{number} .*\bengine=(\d)")[1])


async def test_streams_are_spread_and_refused_only_where_all_that_fit_are_full(
    clients_of_four: tuple[AsrService, Clients],
) -> None:
    service, clients = clients_of_four
    held = [await clients.open() for _ in range(6)]
    channel = await clients.channel()
    stub: rpc.Stub = asr_pb2_grpc.SpeechServiceStub(channel)
    told = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
    assert [(one.max_streams, one.active_streams) for one in told.served] == [(6, 6), (6, 0)]
    assert (told.max_streams, told.active_streams) == (12, 6)
    for fields, says in (
        ({}, "all 6 streams are taken"),
        ({"audio_channel_count": 2}, "fewer than 2 of 6 streams are free in one engine"),
    ):
        error = await rpc.failure(stub, [rpc.config(**fields)])
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == says
        assert rpc.retry_after_s(error) > 0
    error = await rpc.told(lambda: riva.talk(riva.stub_on(channel), [riva.opening()]))
    assert error.details() == "all 6 streams are taken"

    # Those that serve another look-ahead have room.
    other = [await clients.open(look_ahead_ms=1040) for _ in range(6)]
    error = await rpc.failure(stub, [rpc.config(look_ahead_ms=1040)])
    assert error.details() == "all 6 streams are taken"
    for call in other:
        await end(call)

    # One engine is full, and the other one empty: that is where all go, whichever front ends they come through.
    for call in held[::2]:
        await end(call)
    held += [await clients.open() for _ in range(3)]
    error = await rpc.failure(stub, [rpc.config()])
    assert error.details() == "all 6 streams are taken"
    for call in held[1::2][:3] + held[6:]:
        await end(call)
    engines = [engine_of(service, number) for number in range(15)]
    assert engines[:6] == [0, 1, 0, 1, 0, 1], "the one with most room, and the first of equals"
    assert engines[6:12] == [2, 3, 2, 3, 2, 3]
    assert engines[12:] == [0, 0, 0]


async def test_a_slot_that_comes_back_is_anybodys_at_once(
    clients_of_four: tuple[AsrService, Clients],
) -> None:
    """Its next stream may come through any front end, as soon as the one before knows that it is over."""
    _, clients = clients_of_four
    held = [await clients.open() for _ in range(6)]
    for number in range(60):
        await end(held[number % 6])
        held[number % 6] = await clients.open()

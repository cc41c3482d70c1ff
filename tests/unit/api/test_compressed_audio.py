"""Long packets of compressed audio are decoded in slices: others have their turn, whatever is in a packet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from asr_service.api.compressed_audio import CompressedAudio, open_decoder
from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Coding
from asr_service.recognition.wav_header import AudioFormat
from tests.support.audio import speechlike
from tests.support.compressed import compressed, decoded
from tests.support.desk import Desk
from tests.unit.recognition.codecs.crafted import (
    BLOCK,
    BLOCK_GROUP,
    FOREIGN_BLOCK,
    VOID,
    element,
    padding,
    page,
)

PCM = speechlike(0.3, seed=7)
FLAC, OGG, WEBM = (compressed(PCM, form) for form in ("flac", "ogg_opus", "webm_opus"))
# Without metadata, which are longer than the audio.
BARE = FLAC[:4] + b"\x80" + FLAC[5:42] + FLAC[FLAC.index(b"\xff\xf8", 42) :][:5_000]
LONG = 400_000
"""Bytes of a packet that decodes to nothing, at the least."""


def crowd(part: bytes) -> bytes:
    return part * (LONG // len(part) + 1)


WITHOUT_AUDIO = {
    "voids": (Coding.WEBM_OPUS, WEBM, crowd(VOID), b""),
    "groups of another track": (
        Coding.WEBM_OPUS,
        WEBM,
        crowd(element(BLOCK_GROUP, VOID * 90 + element(BLOCK, FOREIGN_BLOCK))),
        b"",
    ),
    "pages of another stream": (Coding.OGG_OPUS, OGG, crowd(page(7, 0, b"")), b""),
    # The last block of its metadata comes behind them.
    "padding": (Coding.FLAC, FLAC[:4] + b"\0" + FLAC[5:42], crowd(padding()), FLAC[42:]),
}


class Stream:
    """One stream, whose session has room for all of it.

    Attributes:
        audio: of the stream.
        formats: those that were told.
        errors: those that were told.
    """

    def __init__(self, audio: CompressedAudio) -> None:
        self.audio = audio
        self.formats: list[AudioFormat] = []
        self.errors: list[InvalidArgument] = []


async def opened(coding: Coding) -> Stream:
    session, _ = Desk(slots=1).session()
    stream = Stream(
        CompressedAudio(
            await open_decoder(coding, None, 1),
            session,
            lambda found: stream.formats.append(found),
            lambda error: stream.errors.append(error),
        )
    )
    return stream


async def turns_during(work: Awaitable[None]) -> int:
    """How many turns of the event loop another task has until some work is done."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    await work
    task.cancel()
    return turns


@pytest.mark.parametrize("name", WITHOUT_AUDIO)
async def test_others_have_turns_while_a_packet_without_audio_is_read(name: str) -> None:
    coding, start, nothing, rest = WITHOUT_AUDIO[name]
    stream = await opened(coding)
    assert await turns_during(stream.audio.take(start + nothing + rest)) >= LONG // 16_384
    await stream.audio.finish()
    assert stream.audio.decoded_bytes == len(decoded(FLAC if coding is Coding.FLAC else start))
    assert (len(stream.formats), stream.errors) == (1, [])


@pytest.mark.parametrize("packet", [WEBM, OGG, BARE])
async def test_a_short_packet_is_decoded_at_once(packet: bytes) -> None:
    assert len(packet) < 8192
    stream = await opened(Coding.AUTO)
    assert await turns_during(stream.audio.take(packet)) == 0
    assert stream.audio.decoded_bytes


@pytest.mark.parametrize("form", ["flac", "ogg_opus", "webm_opus"])
async def test_a_long_packet_has_the_samples_of_its_parts(form: str) -> None:
    data = compressed(speechlike(3.0, seed=5), form)
    assert len(data) > 16_384
    stream = await opened(Coding.AUTO)
    await stream.audio.take(data)
    await stream.audio.finish()
    assert stream.audio.decoded_bytes == len(decoded(data))
    assert stream.errors == []


async def test_what_is_behind_the_damage_is_not_read() -> None:
    stream = await opened(Coding.OGG_OPUS)
    assert await turns_during(stream.audio.take(OGG + bytes(LONG))) <= 1
    await stream.audio.take(OGG)
    await stream.audio.finish()
    assert stream.audio.decoded_bytes == len(decoded(OGG))
    assert len(stream.errors) == 1

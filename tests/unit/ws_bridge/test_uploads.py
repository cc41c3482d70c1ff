"""What recordings and forms are made of, however their bytes come."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.support.audio import cut, speechlike
from tests.support.posting import form
from ws_bridge.file_start import AudioFormat
from ws_bridge.form import Form, read_form
from ws_bridge.recordings import Body, open_recording
from ws_bridge.status import Refused
from ws_bridge.unfinished_wav import mend_wav

PCM = speechlike(0.3)


def body(pieces: Iterable[bytes], limit: int = 1 << 30) -> Body:
    left: Iterator[bytes] = iter(pieces)

    async def read() -> bytes:
        return next(left, b"")

    return Body(read, limit)


def opened(
    pieces: Iterable[bytes], raw: AudioFormat | None = None, *, separate_channels: bool = False
) -> tuple[AudioFormat, bytes]:
    async def run() -> tuple[AudioFormat, bytes]:
        recording = await open_recording(body(pieces), raw, separate_channels=separate_channels)
        return recording.format, b"".join([piece async for piece in recording.pieces])

    return asyncio.run(run())


def written(samples: np.ndarray, form: str = "WAV", subtype: str = "PCM_16", rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


@given(st.integers(1, 3_000))
def test_files_are_the_same_however_they_come(size: int) -> None:
    samples = np.frombuffer(PCM, "<i2")
    plain, flac, deep = written(samples), written(samples, "FLAC"), written(samples, subtype="PCM_24")
    passed_on = (AudioFormat("linear16", 16_000, 1), plain), (AudioFormat("flac", 0, 1), flac)
    assert (opened(cut(plain, size)), opened(cut(flac, size))) == passed_on, (
        "what is around is for the service"
    )
    assert opened(cut(deep, size)) == (AudioFormat("linear16", 16_000, 1), PCM)


def test_raw_audio_is_passed_on() -> None:
    raw = AudioFormat("mulaw", 8_000, 2)
    assert opened([b"RIFF", b"1234"], raw) == (raw, b"RIFF1234")


def test_channels() -> None:
    sides = np.array([[1000, 3000], [-5, -6], [32767, 32767]], "<i2")
    wav = written(sides)
    assert opened([wav], separate_channels=True) == (AudioFormat("linear16", 16_000, 2), wav)
    mono = opened([wav])
    assert mono[0] == AudioFormat("linear16", 16_000, 1)
    assert np.frombuffer(mono[1], "<i2").tolist() == [2000, -6, 32767]
    deep = written(sides, subtype="PCM_24")
    assert opened([deep], separate_channels=True) == (AudioFormat("linear16", 16_000, 2), sides.tobytes())
    flac = written(sides, "FLAC")
    assert opened([flac], separate_channels=True) == (AudioFormat("flac", 0, 2), flac)
    assert opened([flac]) == mono, "the service mixes none"


@pytest.mark.parametrize("data", [b"", b"x", b"RIFF", bytes(100), b"fLaC" + bytes(9), b"OggS" + bytes(50)])
def test_what_is_no_recording(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        opened([data])
    assert caught.value.failure.field == "audio"


@given(st.one_of(st.integers(1, 7_999), st.integers(192_001, 2_000_000_000)))
def test_a_rate_that_a_file_only_claims_is_refused_before_it_sizes_anything(rate: int) -> None:
    """Not only where it is too large for a stream: what is decoded at once is sized by it."""
    data = bytearray(written(np.zeros(4_000, "<i2"), subtype="PCM_U8"))
    struct.pack_into("<I", data, data.index(b"fmt ") + 12, rate)
    with pytest.raises(Refused) as caught:
        opened([bytes(data)])
    assert f"{rate} Hz: it should be from 8000 to 192000 Hz" in caught.value.failure.message


@pytest.mark.parametrize("channels", [2, 7, 64])
def test_what_is_decoded_at_once_is_bounded_whatever_the_channels(channels: int) -> None:
    sides = np.arange(12_000 * channels, dtype="<i2").reshape(-1, channels)

    async def run() -> list[bytes]:
        data = written(sides, subtype="PCM_24", rate=192_000)
        recording = await open_recording(body([data]), None, separate_channels=False)
        return [piece async for piece in recording.pieces]

    pieces = asyncio.run(run())
    assert max(len(piece) // 2 * channels for piece in pieces) <= 192_000
    assert sum(len(piece) // 2 for piece in pieces) == len(sides)


def test_more_channels_than_any_recorder_has_are_refused() -> None:
    with pytest.raises(Refused) as caught:
        opened([written(np.zeros((9, 65), "<i2"), subtype="PCM_24")])
    assert "65 channels: at most 64" in caught.value.failure.message


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_others_have_turns_while_a_large_file_is_read(subtype: str) -> None:
    """A form's file is there as a whole: nothing in reading it waits for anybody."""
    blocks = 40

    async def run() -> int:
        turns, over = 0, False

        async def others() -> None:
            nonlocal turns
            while not over:
                turns += 1
                await asyncio.sleep(0)

        waiting = asyncio.create_task(others())
        samples = blocks * 65_536 // (2 if subtype == "PCM_16" else 3)
        file = io.BytesIO(written(np.zeros(samples, "<i2"), subtype=subtype))
        recording = await open_recording(Body.of_file(file, 1 << 30), None, separate_channels=False)
        before_decoding = turns
        if subtype == "PCM_16":
            async for _ in recording.pieces:
                pass
            before_decoding = turns
        over = True
        await waiting
        return before_decoding

    assert asyncio.run(run()) >= blocks


def test_a_recording_that_is_too_large() -> None:
    async def run() -> None:
        recording = await open_recording(
            body([written(np.zeros(99, "<i2"))], 100), None, separate_channels=False
        )
        async for _ in recording.pieces:
            pass

    with pytest.raises(Refused) as caught:
        asyncio.run(run())
    assert caught.value.failure.http_status == 413


@pytest.mark.parametrize("stated", [0, 7, 0x7FFFFFFF, 0xFFFFFFFF])
def test_unfinished_headers_are_mended(stated: int) -> None:
    data = bytearray(written(np.frombuffer(PCM, "<i2"), subtype="PCM_24"))
    at = data.index(b"data") + 4
    data[at : at + 4] = stated.to_bytes(4, "little")
    assert opened([bytes(data)]) == (AudioFormat("linear16", 16_000, 1), PCM)


def test_headers_that_are_right_stay() -> None:
    wav = written(np.frombuffer(PCM, "<i2"), subtype="PCM_24") + b"LIST\4\0\0\0abcd"
    for data in (
        wav,
        wav[:-12],
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEdata",
        wav[:30],
        b"fLaC",
    ):
        file = io.BytesIO(data)
        mend_wav(file, len(data))
        assert file.getvalue() == data


def formed(pieces: Iterable[bytes], content_type: str) -> Form:
    return asyncio.run(read_form(body(pieces), content_type, "file"))


@given(st.integers(1, 200))
def test_forms_are_the_same_however_they_come(size: int) -> None:
    data, headers = form(
        [("model", "m"), ("file", bytes(range(256)) * 3), ("k[]", "a\r\nb"), ("k[]", "\u00e9")]
    )
    read = formed(cut(data, size), headers["Content-Type"])
    assert read.fields == {"model": ["m"], "k[]": ["a\r\nb", "\u00e9"]}
    with read.file as file:
        assert file.read() == bytes(range(256)) * 3


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", "text/plain"),
        (b"", "multipart/form-data; boundary=x"),
        (b"--x--\r\n", "multipart/form-data; boundary=x"),
        (b"--x\r\nA: b\r\n\r\n\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (form([("model", "m")])[0], form([])[1]["Content-Type"]),
        (form([("file", b"a")])[0][:-9], form([])[1]["Content-Type"]),
        (b"x" * 1_000, "multipart/form-data; boundary=" + "y" * 2_000),
    ],
)
def test_what_is_no_form(data: bytes, content_type: str) -> None:
    with pytest.raises(Refused) as caught:
        formed(cut(data, 50), content_type)
    assert caught.value.failure.field in ("form", "file")

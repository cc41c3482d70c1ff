"""Uploads: every subtype that libsndfile writes is heard as its 16-bit original, to the end, never wrapped around."""

from __future__ import annotations

import io
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr_service.api.riva.audio_files import Upload, as_linear16, open_upload
from asr_service.api.riva.unfinished_files import JoinedBytes
from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Encoding
from asr_service.recognition.raw_audio import RawAudio
from asr_service.recognition.wav_header import AudioFormat
from tests.support.audio_files import LIST, UNFINISHED, written

RATE = 16_000
_steps = np.arange(2 * RATE + 1_234)
PCM = (12_000 * np.sin(_steps / 9) * np.sin(_steps / 4_000)).astype("<i2")
"""More than two blocks, and not a whole number of anything."""

READ = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")
LOSSLESS_BITS = {"PCM_S8": 8, "PCM_U8": 8}
LOSSLESS = ("PCM_", "FLOAT", "DOUBLE", "ALAC_", "DWVW_")
_NOT_WRITTEN = {
    ("MP3", "MPEG_LAYER_I"),
    ("MP3", "MPEG_LAYER_II"),
    ("WAV", "MPEG_LAYER_III"),
    ("AIFF", "DWVW_12"),
}
"""libsndfile names them and does not write them."""
FILES = [
    (form, subtype)
    for form in READ
    for subtype in soundfile.available_subtypes(form)
    if (form, subtype) not in _NOT_WRITTEN
]


def heard(audio: bytes) -> tuple[AudioFormat, np.ndarray[Any, Any]]:
    """An upload's samples as the stream gets them; G.711 as it is decoded there."""
    upload = open_upload(audio)
    assert upload.format is not None
    raw = RawAudio(upload.format)
    data = b"".join([*map(raw.take, upload.pieces), raw.rest()])
    if upload.format.encoding is Encoding.LINEAR16:
        return upload.format, np.frombuffer(data, "<i2")
    law = "ULAW" if upload.format.encoding is Encoding.MULAW else "ALAW"
    decoded, _ = soundfile.read(
        io.BytesIO(data), dtype="int16", format="RAW", subtype=law, samplerate=8000, channels=1
    )
    return upload.format, decoded


@pytest.mark.parametrize(("form", "subtype"), FILES)
def test_every_subtype_is_heard_as_the_same_audio_in_16_bit(form: str, subtype: str) -> None:
    rate = 8_000 if subtype.startswith(("G72", "NMS")) else RATE
    file = written(PCM, form, subtype, rate)
    found, samples = heard(file)
    assert (found.sample_rate, found.channels) == (rate, 1)
    if subtype.startswith(LOSSLESS):
        least = 1 << (16 - LOSSLESS_BITS.get(subtype, 16))
        assert samples.size == PCM.size
        assert np.abs(samples.astype(int) - PCM).max() <= least
    else:
        decoded, _ = soundfile.read(io.BytesIO(file), dtype="float64")
        assert samples.size == decoded.size
        assert np.abs(samples - np.clip(decoded * 32768, -32768, 32767)).max() <= 1
        assert np.corrcoef(samples[: PCM.size], PCM[: samples.size])[0, 1] > 0.9


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "PCM_24"])
def test_either_byte_order(endian: str, subtype: str) -> None:
    for form in ("WAV", "AU", "CAF") if subtype == "FLOAT" else ("WAV", "AIFF", "AU", "CAF"):
        _, samples = heard(written(PCM, form, subtype, endian=endian))
        assert np.abs(samples.astype(int) - PCM).max() <= 1


def test_two_channels_alternate() -> None:
    both = np.stack([PCM, -PCM], axis=1)
    for form, subtype in (("WAV", "FLOAT"), ("WAV", "PCM_16"), ("FLAC", "PCM_24")):
        found, samples = heard(written(both, form, subtype))
        assert found.channels == 2
        assert np.abs(samples.reshape(-1, 2).astype(int) - both).max() <= 1


@pytest.mark.parametrize(
    ("form", "subtype"), [("WAV", "FLOAT"), ("AIFF", "DOUBLE"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]
)
def test_what_is_louder_than_full_scale_is_clipped(form: str, subtype: str) -> None:
    """A wave three times too loud keeps its sign everywhere."""
    wave = 3.0 * np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE)
    if form in ("OGG", "MP3"):
        # A square wave at full scale overshoots in lossy formats.
        wave = np.sign(wave) * 0.999
    file = written(wave, form, subtype)
    decoded, _ = soundfile.read(io.BytesIO(file), dtype="float64")
    assert np.abs(decoded).max() > 1
    _, samples = heard(file)
    clear = np.abs(decoded) > 0.5
    assert (np.sign(samples[clear]) == np.sign(decoded[clear])).all()
    assert samples.max() == 32767 and samples.min() == -32768


@given(st.lists(st.floats(width=32), max_size=50))
def test_any_float_becomes_the_nearest_sample(values: list[float]) -> None:
    given_ = np.array(values, np.float32)
    samples = np.frombuffer(as_linear16(given_), "<i2")
    for value, sample in zip(values, samples.tolist(), strict=True):
        exact = 0.0 if value != value else max(-32768.0, min(32767.0, value * 32768.0))
        assert abs(sample - exact) <= 0.5


# ------------------------------------------------------------------------------------------- sizes that nobody wrote


def with_size(file: bytes, place: int, form: str, size: int) -> bytes:
    spoiled = bytearray(file)
    struct.pack_into(form, spoiled, place, size)
    return bytes(spoiled)


@pytest.mark.parametrize(
    "subtype", [s for f, s in FILES if f == "WAV" and s not in ("MPEG_LAYER_III", "G721_32")]
)
@pytest.mark.parametrize("size", UNFINISHED)
def test_a_header_that_was_never_finished_is_read_to_the_end_of_the_bytes(subtype: str, size: int) -> None:
    rate = 8_000 if subtype.startswith("NMS") else RATE
    file = written(PCM, "WAV", subtype, rate)
    _, whole = heard(file)
    data = file.index(b"data") + 4
    unfinished = with_size(file, data, "<I", size)
    for riff in (*UNFINISHED, len(file) - 8, 36):
        _, samples = heard(with_size(unfinished, 4, "<I", riff))
        assert np.array_equal(samples[: whole.size], whole), (size, riff)
        assert samples.size - whole.size < 1_100, "no more than a block of padding"


def test_other_headers_that_were_never_finished() -> None:
    rf64, au = written(PCM, "RF64", "FLOAT"), written(PCM, "AU", "PCM_16")
    caf, flac = written(PCM, "CAF", "PCM_24"), written(PCM, "FLAC", "PCM_16")
    rifx = written(PCM, "WAV", "PCM_16", endian="BIG")
    w64, aiff = written(PCM, "W64", "PCM_16"), written(PCM, "AIFF", "PCM_16")
    frames = struct.unpack_from(">Q", flac, 18)[0]
    unfinished = [
        *(with_size(rf64, 28, "<Q", size) for size in (0, 2**64 - 1)),
        *(with_size(au, 8, ">I", size) for size in (0, 2**32 - 1)),
        *(with_size(caf, caf.index(b"data") + 4, ">q", size) for size in (0, -1)),
        *(with_size(rifx, rifx.index(b"data") + 4, ">I", size) for size in UNFINISHED),
        *(with_size(w64, w64.index(b"data\xf3") + 16, "<q", size) for size in (0, -1)),
        *(with_size(aiff, aiff.index(b"SSND") + 4, ">I", size) for size in UNFINISHED),
        with_size(flac, 18, ">Q", frames & ~(2**36 - 1)),
    ]
    for file in unfinished:
        _, samples = heard(file)
        assert samples.size == PCM.size
        assert np.abs(samples.astype(int) - PCM).max() <= 1


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "PCM_24"])
def test_what_follows_the_audio_is_not_heard(subtype: str) -> None:
    file = written(PCM, "WAV", subtype) + LIST
    _, samples = heard(file)
    assert np.abs(samples.astype(int) - PCM).max() <= 1 and samples.size == PCM.size


# -------------------------------------------------------------------------------------------------- what bounds them


def test_pieces_are_a_second_at_most_and_made_as_they_are_taken() -> None:
    """An hour of silence is 27 kB of FLAC: what is not taken is not made."""
    file = written(np.zeros(60 * RATE, "<i2"), "FLAC", "PCM_16")
    upload = open_upload(file)
    assert len(file) < 10_000
    assert len(next(upload.pieces)) == 2 * RATE
    assert {len(piece) for piece in upload.pieces} == {2 * RATE}


@pytest.mark.parametrize("loud_first", [False, True])
def test_an_mp3_that_misjudges_its_length_is_read_to_its_end(loud_first: bool) -> None:
    """Without the frame that counts the others, libsndfile estimates how many there are."""
    parts = [np.zeros(20 * RATE), np.random.default_rng(0).standard_normal(20 * RATE) / 5]
    wave = np.concatenate(parts[::-1] if loud_first else parts)
    file = written(wave, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.5)
    second = file.index(file[:2], 4)
    _, samples = heard(file[second:])
    assert abs(samples.size - wave.size) < 2_500


def test_a_rate_that_cannot_be_served_costs_nothing() -> None:
    """The format is told before anything is decoded: a second at this rate would take gigabytes."""
    file = with_size(written(PCM, "WAV", "FLOAT"), 24, "<I", 0x7FFFFFFF)
    assert open_upload(file).format == AudioFormat(Encoding.LINEAR16, 0x7FFFFFFF, 1)


@pytest.mark.parametrize("audio", [b"", b"\0", PCM.tobytes(), b"\x1a\x45\xdf\xa3webm", b"RIFX and so on"])
def test_what_is_no_file_is_left_to_the_config(audio: bytes) -> None:
    upload = open_upload(audio)
    assert upload.format is None and b"".join(upload.pieces) == audio


@pytest.mark.parametrize(
    "audio", [b"fLaC" + bytes(50), b"RIFF\0\0\0\0WAVE" + bytes(99), b"FORM\0\0\0\0AIFFCOMM"]
)
def test_broken_files_are_told(audio: bytes) -> None:
    with pytest.raises(InvalidArgument, match="no file that can be read"):
        open_upload(audio)


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "FLOAT"), ("WAV", "PCM_16"), ("AIFF", "PCM_24")])
def test_a_file_that_breaks_off_is_heard_up_to_there(form: str, subtype: str) -> None:
    file = written(PCM, form, subtype)
    _, samples = heard(file[: len(file) // 2])
    assert PCM.size // 3 < samples.size < PCM.size
    assert np.abs(samples.astype(int) - PCM[: samples.size]).max() <= 1


def test_the_rate_of_opus_is_nominal() -> None:
    opus: Upload = open_upload(written(PCM, "OGG", "OPUS", 48_000))
    assert opus.rate_is_nominal and opus.format == AudioFormat(Encoding.LINEAR16, 48_000, 1)
    assert not open_upload(written(PCM, "OGG", "VORBIS")).rate_is_nominal


@given(
    st.lists(st.binary(max_size=9), max_size=5), st.lists(st.tuples(st.integers(-9, 50), st.integers(0, 20)))
)
def test_joined_parts_are_read_as_one_file(parts: list[bytes], reads: list[tuple[int, int]]) -> None:
    joined, whole = JoinedBytes([memoryview(part) for part in parts]), b"".join(parts)
    assert joined.read() == whole and joined.seek(0, io.SEEK_END) == len(whole)
    for place, count in reads:
        assert joined.seek(place) == joined.tell() == max(0, place)
        assert joined.read(count) == whole[max(0, place) :][:count]


def test_an_upload_that_is_decoded_is_not_copied() -> None:
    file = written(PCM, "FLAC", "PCM_16")
    tracemalloc.start()
    try:
        upload = open_upload(file * 100)
        joined, _ = len(file) * 100, next(upload.pieces)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * joined, "the upload itself, and no second one"
    finally:
        tracemalloc.stop()

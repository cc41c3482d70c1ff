"""Compressed streams, cut anywhere, decode to what FFmpeg makes of the whole; what is damaged is refused by name."""

from __future__ import annotations

import io
import itertools
import random
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Coding, Encoding
from asr_service.recognition.codecs.decoders import make_decoder
from asr_service.recognition.wav_header import AudioFormat
from tests.support.audio import speechlike
from tests.support.audio_files import wav, written
from tests.support.compressed import compressed, decoded

PCM = speechlike(1.3, seed=7)
STEREO = np.stack([np.frombuffer(speechlike(0.7, seed=seed), "<i2") for seed in (8, 9)], 1).tobytes()
CODINGS = {
    "flac": Coding.FLAC,
    "ogg_opus": Coding.OGG_OPUS,
    "webm_opus": Coding.WEBM_OPUS,
    "matroska": Coding.WEBM_OPUS,
}
FILES = {(form, 1): compressed(PCM, form) for form in CODINGS} | {
    (form, 2): compressed(STEREO, form, channels=2) for form in CODINGS
}


def heard(coding: Coding, packets: list[bytes], channels: int = 1, rate: int | None = None) -> bytes:
    decoder = make_decoder(coding, rate, channels)
    made = [piece for packet in packets for piece in decoder.take(packet)]
    return b"".join((*made, *decoder.rest()))


def refused(coding: Coding, data: bytes, channels: int = 1, rate: int | None = None) -> str:
    with pytest.raises(InvalidArgument) as caught:
        heard(coding, [data[at : at + 500] for at in range(0, len(data), 500)], channels, rate)
    assert caught.value.field
    assert caught.value.message.startswith(caught.value.field)
    return caught.value.message


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(at % len(data) for at in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@pytest.mark.parametrize(("form", "channels"), FILES)
@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 100_000), max_size=60), auto=st.booleans())
def test_any_split_is_the_library_s_decoding_of_the_whole(
    form: str, channels: int, cuts: list[int], auto: bool
) -> None:
    data = FILES[form, channels]
    assert heard(Coding.AUTO if auto else CODINGS[form], pieces(data, cuts), channels) == decoded(data)


@pytest.mark.parametrize(("form", "channels"), FILES)
def test_byte_by_byte(form: str, channels: int) -> None:
    data = FILES[form, channels]
    assert heard(CODINGS[form], [bytes((byte,)) for byte in data], channels) == decoded(data)


@pytest.mark.parametrize("rate", [8_000, 11_025, 24_000, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_flac_of_other_rates_and_samples(rate: int, subtype: str) -> None:
    samples = np.frombuffer(PCM, "<i2")
    data = written(samples, "FLAC", subtype, rate=rate)
    decoder = make_decoder(Coding.FLAC, rate, 1)
    made = b"".join((*decoder.take(data), *decoder.rest()))
    assert decoder.format == AudioFormat(Encoding.LINEAR16, rate, 1)
    exact, _ = soundfile.read(io.BytesIO(data), dtype="float64")
    assert made == np.minimum(np.rint(exact * 32_768), 32_767).astype("<i2").tobytes()


def test_a_flac_frame_is_decoded_with_the_byte_that_ends_it() -> None:
    """Nothing of the next one has to come: an encoder's packets are decoded as they are."""
    data = compressed(PCM, "flac")
    whole, made, frames = decoded(data), b"", 0
    decoder = make_decoder(Coding.FLAC, None, 1)
    for place in range(len(data)):
        if got := b"".join(decoder.take(data[place : place + 1])):
            assert place + 1 == len(data) or data[place + 1 :].startswith(b"\xff\xf8")
            made, frames = made + got, frames + 1
    assert made == whole
    assert frames > 3


@pytest.mark.parametrize("form", ["ogg_opus", "webm_opus"])
def test_opus_has_as_many_channels_as_are_asked_for(form: str) -> None:
    mixed = heard(CODINGS[form], [FILES[form, 2]], 1)
    assert mixed == decoded(FILES[form, 2], channels=1)
    mono = np.frombuffer(mixed, "<i2")
    mean = np.frombuffer(decoded(FILES[form, 2]), "<i2").reshape(-1, 2).astype(np.float64).mean(axis=1)
    assert np.sqrt(np.mean((mono - mean) ** 2)) < 0.05 * np.sqrt(np.mean(mean**2))
    doubled = np.frombuffer(heard(CODINGS[form], [FILES[form, 1]], 2), "<i2").reshape(-1, 2)
    assert np.array_equal(doubled[:, 0], doubled[:, 1])


@pytest.mark.parametrize("form", ["ogg_opus", "webm_opus"])
def test_recordings_one_behind_the_other(form: str) -> None:
    one, two = FILES[form, 1], compressed(speechlike(0.5, seed=3), form)
    assert heard(CODINGS[form], [one + two]) == decoded(one) + decoded(two)


def test_wav_is_known_by_its_bytes() -> None:
    file = wav(PCM, rate=22_050)
    decoder = make_decoder(Coding.AUTO, None, 1)
    made = b"".join(piece for at in range(0, len(file), 7) for piece in decoder.take(file[at : at + 7]))
    assert made + b"".join(decoder.rest()) == PCM
    assert decoder.format == AudioFormat(Encoding.LINEAR16, 22_050, 1)


def test_what_contradicts_the_config_is_an_error_with_both() -> None:
    message = refused(Coding.FLAC, FILES["flac", 2], 1)
    assert message == (
        "config.audio_channel_count is 1, and the audio is a FLAC stream of 2; they should agree"
    )
    assert "config.sample_rate_hertz is 8000, and the audio is a FLAC stream of 16000" in refused(
        Coding.FLAC, FILES["flac", 1], rate=8_000
    )
    assert "is a WAV file of 22050" in refused(Coding.AUTO, wav(PCM, rate=22_050), rate=16_000)


def test_another_container_than_the_config_says_is_named() -> None:
    assert "begins as a FLAC file, and config.encoding is OGG_OPUS" in refused(
        Coding.OGG_OPUS, FILES["flac", 1]
    )
    assert "begins as an Ogg file (Opus, Vorbis), and config.encoding is FLAC" in refused(
        Coding.FLAC, FILES["ogg_opus", 1]
    )
    assert "does not begin as a WebM stream of Opus" in refused(Coding.WEBM_OPUS, PCM)
    assert "raw samples need their encoding" in refused(Coding.AUTO, PCM)
    assert "begins as an AIFF file" in refused(
        Coding.AUTO, written(np.zeros(900, np.int16), "AIFF", "PCM_16")
    )
    vorbis = written(np.frombuffer(PCM, "<i2"), "OGG", "VORBIS")
    assert refused(Coding.OGG_OPUS, vorbis) == "audio is an Ogg stream without Opus"


@pytest.mark.parametrize("form", CODINGS)
def test_a_stream_that_is_cut_off_has_its_audio_and_then_an_error(form: str) -> None:
    data = FILES[form, 1]
    whole = decoded(data)
    decoder = make_decoder(CODINGS[form], None, 1)
    made = b"".join(decoder.take(data[: len(data) // 2]))
    assert whole.startswith(made)
    with pytest.raises(InvalidArgument, match=r"^audio .*ends within|^audio ends within"):
        list(decoder.rest())


@pytest.mark.parametrize("form", ["flac", "ogg_opus"])
def test_one_spoiled_bit_of_checked_audio_is_found(form: str) -> None:
    data, rng = FILES[form, 1], random.Random(5)
    start = data.rindex(b"OggS") if form == "ogg_opus" else data.index(b"\xff\xf8")
    for _ in range(50):
        place = rng.randrange(start, len(data))
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << rng.randrange(8)
        with pytest.raises(InvalidArgument):
            heard(CODINGS[form], [bytes(spoiled)])


@pytest.mark.parametrize("form", CODINGS)
def test_nothing_that_was_spoiled_does_more_than_be_refused(form: str) -> None:
    data, rng = FILES[form, 1], random.Random(6)
    for _ in range(300):
        spoiled = bytearray(data[: rng.randrange(len(data))])
        for _ in range(rng.randrange(1, 6)):
            place = rng.randrange(len(spoiled) + 1)
            spoiled[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        step = rng.choice([1, 100, 10_000])
        decoder = make_decoder(CODINGS[form], None, 1)
        try:
            for at in range(0, len(spoiled), step):
                for piece in decoder.take(bytes(spoiled[at : at + step])):
                    assert len(piece) <= 2 * 65_535
            list(decoder.rest())
        except InvalidArgument as error:
            assert error.field  # noqa: PT017 - it need not be refused


def test_silence_that_expands_is_made_a_frame_at_a_time() -> None:
    """A minute in a packet, or hours: whoever takes the pieces decides how fast they are made."""
    data = compressed(bytes(2 * 16_000 * 60), "flac")
    assert len(data) < 100_000
    taken = make_decoder(Coding.FLAC, None, 1).take(data)
    assert 0 < len(next(taken)) <= 2 * 65_535


def test_a_picture_among_the_metadata_is_not_kept() -> None:
    data = FILES["flac", 1]
    picture = b"\x06" + (16_000_000).to_bytes(3, "big")
    decoder = make_decoder(Coding.FLAC, None, 1)
    assert not list(decoder.take(data[:42] + picture))
    for _ in range(1_000):
        assert not list(decoder.take(bytes(16_000)))
    made = b"".join((*decoder.take(data[42:]), *decoder.rest()))
    assert made == decoded(data)


def test_pyav_is_imported_for_compressed_streams_only() -> None:
    code = "import sys, asr_service.app.front_end, asr_service.api.speech; print('av' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

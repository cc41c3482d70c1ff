"""The audio in packets, however the bytes are cut: headers are skipped, everything else that is no audio is refused."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Encoding
from asr_service.recognition.raw_audio import RawAudio
from asr_service.recognition.wav_header import AudioFormat
from tests.support.audio_files import LIST, UNFINISHED, chunk, wav
from tests.unit.recognition.test_containers import EXAMPLES

FORMAT = AudioFormat(Encoding.LINEAR16, 16_000, 1)
NOISE = (np.random.default_rng(3).standard_normal(3_000) * 3_000).astype("<i2").tobytes()


def heard(packets: list[bytes], stated: AudioFormat = FORMAT) -> bytes:
    """The audio of a whole stream."""
    raw = RawAudio(stated)
    return b"".join([*map(raw.take, packets), raw.rest()])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Packets, cut at these places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


splits = st.lists(st.integers(0, 200) | st.integers(0, 10_000), max_size=60)

STREAMS: dict[str, tuple[bytes, bytes]] = {
    "raw": (NOISE, NOISE),
    "zeros": (bytes(5_000), bytes(5_000)),
    "nothing": (b"", b""),
    "less than a magic": (b"RIF", b"RIF"),
    "like a WAV file at first": (b"RIFF" + NOISE, b"RIFF" + NOISE),
    "raw that begins with FF": (b"\xff\xfb\x90\x44" + NOISE, b"\xff\xfb\x90\x44" + NOISE),
    "a WAV file": (wav(NOISE), NOISE),
    "an odd number of bytes": (wav(NOISE[:-1], after=LIST), NOISE[:-1]),
    "a comment before": (wav(NOISE, before=LIST), NOISE),
    "a comment behind": (wav(NOISE, after=LIST + chunk(b"id3 ", NOISE)), NOISE),
    "a size that is too small": (wav(NOISE, size=1_000), NOISE),
    "a file behind a file": (wav(NOISE) + wav(NOISE[:500]), NOISE + NOISE[:500]),
    "a comment and no audio": (wav(b"", after=LIST), b""),
    "a header without an end": (wav(NOISE)[:30], b""),
    **{f"a size of {size:#x}": (wav(NOISE, size=size, riff=size), NOISE) for size in UNFINISHED},
}


@pytest.mark.parametrize("name", STREAMS)
@given(places=splits)
def test_the_audio_is_the_same_however_it_is_cut(name: str, places: list[int]) -> None:
    data, audio = STREAMS[name]
    assert heard(cut(data, places)) == audio
    assert heard([bytes((byte,)) for byte in data[:300]] + [data[300:]]) == audio


@given(size=st.integers(0, 2**32 - 1), riff=st.integers(0, 2**32 - 1))
def test_sizes_in_a_header_cost_no_audio(size: int, riff: int) -> None:
    assert heard([wav(NOISE, size=size, riff=riff)]) == NOISE


def test_a_file_in_every_packet_is_its_audio() -> None:
    pieces = [NOISE[at : at + 640] for at in range(0, len(NOISE), 640)]
    for size in (None, *UNFINISHED):
        assert heard([wav(piece, size=size) for piece in pieces]) == NOISE
    assert heard([wav(piece, after=LIST) for piece in pieces]) == NOISE
    assert heard([wav(piece) if at else piece for at, piece in enumerate(pieces)]) == NOISE, "raw at first"
    assert heard([piece if at else wav(piece) for at, piece in enumerate(pieces)]) == NOISE, "raw later"
    halves = [half for piece in pieces for half in (wav(piece)[:20], wav(piece)[20:])]
    assert heard(halves) == NOISE, "headers in pieces"


@pytest.mark.parametrize("name", EXAMPLES)
@given(places=splits)
def test_files_and_text_are_refused_however_they_are_cut(name: str, places: list[int]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        heard(cut(EXAMPLES[name], places))
    assert refused.value.field == "audio"
    assert refused.value.message.startswith(f"audio begins as {name}; it should be raw samples")


def test_what_can_be_decoded_is_told_where() -> None:
    for name, advised in (("a FLAC file", True), ("a WebM or Matroska file", False)):
        with pytest.raises(InvalidArgument) as refused:
            RawAudio(FORMAT, "; or elsewhere").take(EXAMPLES[name])
        assert refused.value.message.endswith("; or elsewhere") == advised


def test_short_text_is_not_judged_but_a_stream_of_it_is() -> None:
    text = base64.b64encode(NOISE)
    assert heard([text[:800]]) == text[:800]
    with pytest.raises(InvalidArgument, match="base64"):
        heard([base64.b64encode(NOISE[at : at + 640]) for at in range(0, len(NOISE), 640)])


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (wav(NOISE, rate=8_000), "config.sample_rate_hertz is 16000, and the WAV header .* says 8000"),
        (wav(NOISE, channels=2), "config.audio_channel_count is 1, and the WAV header .* says 2"),
        (wav(NOISE, kind=7, bits=8), "config.encoding is LINEAR16, and the WAV header .* says MULAW"),
        (wav(NOISE, kind=3, bits=32), "audio .* 32-bit float"),
    ],
)
def test_a_header_that_contradicts_the_config_is_an_error_that_names_both(file: bytes, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        heard([file[:10], file[10:]])
    assert refused.value.message.startswith(refused.value.field)


def test_a_header_that_contradicts_what_came_before_is_an_error_that_names_both() -> None:
    for first in (wav(NOISE), NOISE):
        with pytest.raises(
            InvalidArgument, match="8000 Hz 16-bit PCM in 2 channels, in a stream of 16000 Hz"
        ):
            heard([first, wav(NOISE, rate=8_000, channels=2)])


def test_thousands_of_files_in_a_packet_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="more than 64 WAV files in a packet"):
        heard([wav(b"") * 100_000])

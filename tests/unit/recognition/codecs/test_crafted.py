"""Streams that somebody has made to be a burden, and what of real ones looks like them."""

from __future__ import annotations

import pytest

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Coding
from asr_service.recognition.codecs.decoders import make_decoder
from tests.support.audio import cut, speechlike
from tests.support.compressed import compressed, decoded
from tests.unit.recognition.codecs.crafted import (
    BLOCK,
    BLOCK_GROUP,
    CONTINUED,
    FIRST,
    FOREIGN_BLOCK,
    SIMPLE_BLOCK,
    TRACK,
    TRACKS,
    VOID,
    element,
    page,
    pages,
    serial_of,
    with_video,
)

PCM = speechlike(0.3, seed=7, rate=48_000)
WEBM = compressed(PCM, "webm_opus", rate=48_000)
OGG = compressed(PCM, "ogg_opus", rate=48_000)


def heard(coding: Coding, *packets: bytes) -> bytes:
    decoder = make_decoder(coding, None, 1)
    made = [piece for packet in packets for piece in decoder.take(packet)]
    return b"".join((*made, *decoder.rest()))


def refusal(coding: Coding, *packets: bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        heard(coding, *packets)
    assert caught.value.field == "audio"
    return caught.value.message


@pytest.mark.parametrize("name", [BLOCK_GROUP, TRACKS])
def test_an_element_of_thousands_that_mean_nothing_is_refused(name: int) -> None:
    """They are read at once, so that nobody else has a turn before the last of them."""
    crowd = element(name, VOID * 20_000 + element(BLOCK, FOREIGN_BLOCK))
    assert "an element holds more than 100 others" in refusal(Coding.WEBM_OPUS, WEBM + crowd)


def test_a_track_of_thousands_that_mean_nothing_is_refused() -> None:
    crowd = element(TRACKS, element(TRACK, VOID * 20_000))
    assert "an element holds more than 100 others" in refusal(Coding.WEBM_OPUS, WEBM + crowd)


def test_tracks_that_are_longer_than_any_are_not_waited_for() -> None:
    start = element(TRACKS, bytes(70_000))[:100]
    assert "an element is longer than it can be" in refusal(Coding.WEBM_OPUS, WEBM + start)


def test_a_group_of_another_track_is_left_out() -> None:
    group = element(BLOCK_GROUP, VOID * 50 + element(BLOCK, FOREIGN_BLOCK))
    assert heard(Coding.WEBM_OPUS, WEBM + group * 5) == decoded(WEBM)


@pytest.mark.parametrize("container", ["webm", "matroska"])
@pytest.mark.parametrize("size", [8192, 100_000])
def test_beside_a_video_as_it_is_written(container: str, size: int) -> None:
    file = with_video(PCM, container)
    assert len(file) > 3 * 131_072
    assert heard(Coding.WEBM_OPUS, *cut(file, size)) == decoded(file)


@pytest.mark.parametrize("place", range(12))
def test_a_large_picture_of_a_video_is_left_out_wherever_it_is_cut(place: int) -> None:
    """Also between its size and the number of its track."""
    picture = element(SIMPLE_BLOCK, FOREIGN_BLOCK + bytes(140_000))
    assert heard(Coding.WEBM_OPUS, WEBM + picture[:place], picture[place:]) == decoded(WEBM)


def test_a_large_block_of_no_track_is_refused() -> None:
    assert "a block has no head" in refusal(Coding.WEBM_OPUS, WEBM + element(SIMPLE_BLOCK, bytes(140_000)))


@pytest.mark.parametrize(
    ("sizes", "body"), [(b"", b""), (b"\xff", bytes(255)), (b"\0", b""), (b"\x13", b"OpusTags" + bytes(11))]
)
def test_a_stream_that_begins_again_without_its_head_is_refused(sizes: bytes, body: bytes) -> None:
    again = page(serial_of(OGG), FIRST, sizes, body)
    assert "begins a stream of Opus without its head" in refusal(Coding.OGG_OPUS, OGG + again)


def test_a_picture_among_the_comments_goes_over_pages() -> None:
    head, _, *audio = pages(OGG)
    serial = serial_of(OGG)
    comments = b"OpusTags" + bytes(255 * 255 - 8)
    pictures = [page(serial, at and CONTINUED, b"\xff" * 255, comments, 2**64 - 1) for at in range(4)]
    end = page(serial, CONTINUED, b"\7", bytes(7))
    assert heard(Coding.OGG_OPUS, *cut(b"".join((head, *pictures, end, *audio)), 9_000)) == decoded(OGG)

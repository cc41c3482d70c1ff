"""Requests of uploads are read as protobuf reads them, without a copy of their audio."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")

import riva.client.proto.riva_asr_pb2 as pb

from asr_service.api.riva.upload_request import read_upload_request

requests = st.builds(
    lambda audio, rate, name, phrases: pb.RecognizeRequest(
        config=pb.RecognitionConfig(
            sample_rate_hertz=rate, speech_contexts=[pb.SpeechContext(phrases=phrases, boost=20)]
        ),
        audio=audio,
        id=pb.RecognizeRequest().id.__class__(value=name),
    ),
    st.binary(max_size=300),
    st.integers(-(2**31), 2**31 - 1),
    st.sampled_from(["", "job 1"]),
    st.lists(st.sampled_from(["zulu", "kilo"]), max_size=2),
)


def check(data: bytes) -> None:
    expected = pb.RecognizeRequest.FromString(data)
    read = read_upload_request(data)
    assert bytes(read.audio) == expected.audio
    expected.ClearField("audio")
    read.message.ClearField("audio")
    assert read.message == expected


@given(requests)
def test_what_protobuf_writes(request: pb.RecognizeRequest) -> None:
    check(request.SerializeToString())


@given(requests, requests)
def test_fields_that_come_twice(first: pb.RecognizeRequest, second: pb.RecognizeRequest) -> None:
    check(first.SerializeToString() + second.SerializeToString())


@given(requests, st.integers(0, 400), st.binary(max_size=4))
def test_any_bytes_are_read_as_protobuf_reads_them(
    request: pb.RecognizeRequest, at: int, spoiled: bytes
) -> None:
    data = request.SerializeToString()
    data = data[:at] + spoiled + data[at + len(spoiled) :]
    for some in (data, data[:at], spoiled):
        try:
            pb.RecognizeRequest.FromString(some)
        except DecodeError:
            # What is wrong inside the audio's field alone is nothing that matters.
            with contextlib.suppress(DecodeError):
                read_upload_request(some)
        else:
            check(some)


def test_the_audio_is_not_copied() -> None:
    data = pb.RecognizeRequest(audio=bytes(1000)).SerializeToString()
    assert read_upload_request(data).audio.obj is data


@pytest.mark.parametrize(("fields", "copied"), [(62, False), (63, False), (64, True), (100_000, True)])
@pytest.mark.parametrize("behind", [False, True])
def test_a_request_of_very_many_fields_is_left_to_protobuf(fields: int, copied: bool, behind: bool) -> None:
    """Live streams wait while it is looked at; what nobody means may cost a copy."""
    audio = pb.RecognizeRequest(audio=b"samples").SerializeToString()
    # A number, of a field that no request has.
    unknown = b"\xc0\xbb\x01\x00"
    assert pb.RecognizeRequest.FromString(unknown * 2).ByteSize() == 2 * len(unknown)
    data = audio + unknown * fields if behind else unknown * fields + audio
    check(data)
    assert (read_upload_request(data).audio.obj is not data) is copied

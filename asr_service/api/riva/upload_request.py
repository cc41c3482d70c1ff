"""Reads requests of Riva's unary `Recognize` without a copy of the recording that each of them holds. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import riva.client.proto.riva_asr_pb2 as pb

_AUDIO = pb.RecognizeRequest.DESCRIPTOR.fields_by_name["audio"].number
# Of fields: how what follows is laid out (protobuf's "Encoding", "Message Structure").
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10
# A request has three fields. They are looked at while other calls wait, which millions of unknown ones would make long.
_MOST_FIELDS = 64


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """A request: its message without the audio, and the audio where it lies in the bytes that came."""

    message: pb.RecognizeRequest
    audio: memoryview


def read_upload_request(data: bytes) -> UploadRequest:
    """Reads a serialized `RecognizeRequest`.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    found = _find_audio(data)
    if found is None:
        message = pb.RecognizeRequest.FromString(data)
        return UploadRequest(message, memoryview(message.audio))
    field, start, end = found
    message = pb.RecognizeRequest.FromString(data[:field] + data[end:])
    return UploadRequest(message, memoryview(data)[start:end])


def _find_audio(data: bytes) -> tuple[int, int, int] | None:
    """Finds the one field with audio: where it, its audio and what follows begin.

    None if there is none, more than one, or anything that only protobuf's own parser should judge.
    """
    place, found = 0, None
    for _ in range(_MOST_FIELDS):
        if place >= len(data):
            break
        field = place
        key, place = _varint(data, place)
        kind = key & 7
        if kind == _LENGTH:
            size, start = _varint(data, place)
            place = start + size
            if key >> 3 == _AUDIO:
                if found is not None:
                    return None
                found = (field, start, place)
        elif kind == _VARINT:
            _, place = _varint(data, place)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        else:
            return None
    return found if place == len(data) else None


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Reads a number of up to 64 bits; returns it and where the next byte is, behind the end if there is no number."""
    number = 0
    for count, byte in enumerate(data[place : place + _MOST_VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return number, place + count + 1
    return 0, len(data) + 1

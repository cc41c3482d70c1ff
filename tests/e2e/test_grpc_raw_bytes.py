"""What no client library sends: connections that break inside a packet, and strings that are no text."""

from __future__ import annotations

import socket
import struct
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from grpc.aio import StreamStreamMultiCallable

from testbed import grpc_frames as frames
from tests.support.process import AsrService
from tests.support.rpc import Stub, audio, bad_fields, config, told, until_active

pytestmark = pytest.mark.usefixtures("bystander")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, END_HEADERS = 0, 1, 4, 4


async def test_clients_that_vanish_inside_a_packet(stub: Stub, service: AsrService) -> None:
    """Half of a DATA frame has come when the connection is reset: the permits come back."""
    host, port = service.target.rsplit(":", 1)
    packet = frames.frame(DATA, 0, 1, frames.message(audio(bytes(6400))))
    opening = (
        PREFACE
        + frames.frame(SETTINGS, 0, 0, b"")
        + frames.frame(HEADERS, END_HEADERS, 1, frames.request_headers(service.target))
        + frames.frame(DATA, 0, 1, frames.message(config()))
    )
    sockets: list[socket.socket] = []
    for _ in range(5):
        link = socket.create_connection((host, int(port)))
        link.sendall(opening + packet + packet[: len(packet) // 2])
        sockets.append(link)
    await until_active(stub, 6)  # with the bystander
    for link in sockets:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
        link.close()
    await until_active(stub, 1)


@pytest.mark.parametrize("place", ["stream_id", "tag"])
async def test_a_string_that_is_not_utf8(service: AsrService, place: str) -> None:
    good = {
        "stream_id": config(stream_id="name"),
        "tag": pb.RecognizeRequest(finalize=pb.Finalize(tag="name")),
    }
    broken = good[place].SerializeToString().replace(b"name", b"na\xff\xfe")
    before = [config().SerializeToString()] if place == "tag" else []
    async with grpc.aio.insecure_channel(service.target) as channel:
        recognize: StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
            "/asr.v1.SpeechService/Recognize"
        )
        error = await told(lambda: anext(aiter(recognize(iter([*before, broken])))))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bad_fields(error) == ["request"]

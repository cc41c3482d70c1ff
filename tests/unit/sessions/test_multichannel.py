from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_service.core.commands import Audio, Command, Finalize, HalfClose
from asr_service.core.values import Encoding, StreamConfig
from asr_service.sessions.multichannel import Interleaved
from asr_service.sessions.registry import SessionRegistry

CUTS = st.lists(st.integers(0, 12), max_size=30)


def sent(
    data: bytes, cuts: list[int], encoding: Encoding, channels: int = 2
) -> tuple[list[bytes], list[Command]]:
    """What each channel's session got of the data in pieces, and everything that was submitted."""
    submitted: list[Command] = []
    sessions = SessionRegistry(submitted.append, max_streams=channels, inbox_bytes=lambda _: 1_000_000)
    opened = [sessions.open(StreamConfig("x", encoding=encoding)) for _ in range(channels)]

    async def run() -> None:
        feed = Interleaved(opened, encoding)
        at = 0
        for size in [*cuts, len(data)]:
            await feed.send_audio(data[at : at + size])
            at += size
        feed.finalize("now")
        feed.half_close()

    asyncio.run(run())
    got = [
        b"".join(c.data for c in submitted if isinstance(c, Audio) and c.stream == session.id)
        for session in opened
    ]
    return got, submitted


@settings(deadline=None)  # an event loop an example
@given(st.binary(max_size=120), CUTS)
def test_samples_of_two_bytes(data: bytes, cuts: list[int]) -> None:
    got, _ = sent(data, cuts, Encoding.LINEAR16)
    whole = data[: len(data) // 4 * 4]
    pairs = [whole[at : at + 2] for at in range(0, len(whole), 2)]
    assert got == [b"".join(pairs[0::2]), b"".join(pairs[1::2])]


@settings(deadline=None)  # an event loop an example
@given(st.binary(max_size=120), CUTS)
def test_samples_of_one_byte(data: bytes, cuts: list[int]) -> None:
    got, _ = sent(data, cuts, Encoding.MULAW)
    whole = data[: len(data) // 2 * 2]
    assert got == [whole[0::2], whole[1::2]]


@pytest.mark.parametrize("kind", [Finalize, HalfClose])
def test_requests_reach_every_channel(kind: type) -> None:
    _, submitted = sent(b"", [], Encoding.LINEAR16)
    assert sorted(c.stream for c in submitted if isinstance(c, kind)) == [1, 2]

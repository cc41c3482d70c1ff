from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from asr_service.core.values import Encoding
from asr_service.sessions.multichannel import Interleaved

CUTS = st.lists(st.integers(0, 12), max_size=30)


class Channel:
    """What one channel's session is asked."""

    def __init__(self) -> None:
        self.data = b""
        self.asked: list[str] = []
        self.takes_silence = True

    async def send_audio(self, data: bytes) -> None:
        self.data += data

    def add_silence(self, data: bytes) -> bool:
        self.data += data
        return True

    def finalize(self, tag: str) -> None:
        self.asked.append(tag)

    def half_close(self) -> None:
        self.asked.append("half-close")


def sent(data: bytes, cuts: list[int], encoding: Encoding) -> list[Channel]:
    """What each channel got of the data in pieces."""
    channels = [Channel(), Channel()]

    async def run() -> None:
        feed = Interleaved(channels, encoding)
        at = 0
        for size in [*cuts, len(data)]:
            await feed.send_audio(data[at : at + size])
            at += size
        feed.finalize("now")
        feed.half_close()

    asyncio.run(run())
    return channels


@settings(deadline=None)  # an event loop an example
@given(st.binary(max_size=120), CUTS)
def test_samples_of_two_bytes(data: bytes, cuts: list[int]) -> None:
    got = [channel.data for channel in sent(data, cuts, Encoding.LINEAR16)]
    whole = data[: len(data) // 4 * 4]
    pairs = [whole[at : at + 2] for at in range(0, len(whole), 2)]
    assert got == [b"".join(pairs[0::2]), b"".join(pairs[1::2])]


@settings(deadline=None)  # an event loop an example
@given(st.binary(max_size=120), CUTS)
def test_samples_of_four_bytes(data: bytes, cuts: list[int]) -> None:
    got = [channel.data for channel in sent(data, cuts, Encoding.FLOAT32)]
    whole = data[: len(data) // 8 * 8]
    samples = [whole[at : at + 4] for at in range(0, len(whole), 4)]
    assert got == [b"".join(samples[0::2]), b"".join(samples[1::2])]


@settings(deadline=None)  # an event loop an example
@given(st.binary(max_size=120), CUTS)
def test_samples_of_one_byte(data: bytes, cuts: list[int]) -> None:
    got = [channel.data for channel in sent(data, cuts, Encoding.MULAW)]
    whole = data[: len(data) // 2 * 2]
    assert got == [whole[0::2], whole[1::2]]


def test_requests_reach_every_channel() -> None:
    channels = sent(b"", [], Encoding.LINEAR16)
    assert [channel.asked for channel in channels] == [["now", "half-close"]] * 2


def test_silence_is_taken_by_every_channel_or_by_none() -> None:
    channels = [Channel(), Channel()]
    feed = Interleaved(channels, Encoding.LINEAR16)
    assert feed.add_silence(bytes(4))
    channels[1].takes_silence = False
    assert not feed.add_silence(bytes(4))
    assert [channel.data for channel in channels] == [bytes(4), bytes(4)]

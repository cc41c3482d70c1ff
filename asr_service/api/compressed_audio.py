"""Takes the packets of a stream of compressed audio to its sessions as raw samples. Lives on the event loop.

A few bytes may mean minutes of silence. So nothing is decoded before the samples in front of it were taken: what a
stream holds is what it holds of raw audio, its last packet, and one frame; other streams have their turn in between.
Megabytes may also mean nothing, and take as long to read: long packets are decoded in slices, with turns in between.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator

from asr_service.api import limits
from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Coding
from asr_service.recognition.codecs.contract import Decoder, is_pyav_installed
from asr_service.recognition.codecs.decoders import make_decoder
from asr_service.recognition.wav_header import AudioFormat
from asr_service.sessions.multichannel import Feed

# Decoded bytes, a millisecond or two of work, after which other streams have a turn.
_TURN_BYTES = 500_000
# Bytes of a packet that are decoded at once. Where they are made for it, with nothing in them to be decoded, reading
# them takes some milliseconds. Packets of live audio are shorter.
_SLICE_BYTES = 8192


async def open_decoder(coding: Coding, rate: int | None, channels: int) -> Decoder:
    """Makes the decoder of a stream.

    Args:
        coding: of the stream.
        rate: that the client has stated, None if it has not.
        channels: that the client has stated.

    Raises:
        InvalidArgument: PyAV is not installed.
    """
    # It takes a tenth of a second to import, for which other streams do not wait.
    if is_pyav_installed():
        await asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "av")
    return make_decoder(coding, rate, channels)


class CompressedAudio:
    """Decodes one stream.

    Args:
        decoder: of the stream.
        feed: takes the samples.
        on_format: called once, before the first samples, with their format.
        on_error: called once, if the stream is damaged or cannot be served; what came before was sent, and what follows
            is dropped.

    Attributes:
        decoded_bytes: of samples so far.
    """

    def __init__(
        self,
        decoder: Decoder,
        feed: Feed,
        on_format: Callable[[AudioFormat], None],
        on_error: Callable[[InvalidArgument], None],
    ) -> None:
        self.decoded_bytes = 0
        self._decoder = decoder
        self._feed = feed
        self._on_format = on_format
        self._on_error = on_error
        self._is_known = self._is_over = False
        self._turn = 0

    async def take(self, packet: bytes) -> None:
        """Sends the samples that a packet completes."""
        if len(packet) <= _SLICE_BYTES:
            await self._send(self._decoder.take(packet))
            return
        for start in range(0, len(packet), _SLICE_BYTES):
            if self._is_over:
                return
            if start:
                await asyncio.sleep(0)
            await self._send(self._decoder.take(packet[start : start + _SLICE_BYTES]))

    async def finish(self) -> None:
        """Sends what is left after the last packet."""
        await self._send(self._decoder.rest())

    async def _send(self, pieces: Iterator[bytes]) -> None:
        if self._is_over:
            return
        try:
            await self._send_all(pieces)
        except InvalidArgument as error:
            self._is_over = True
            self._on_error(error)

    async def _send_all(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            if not self._is_known:
                self._is_known = True
                assert self._decoder.format is not None
                _check(self._decoder.format)
                self._on_format(self._decoder.format)
            self.decoded_bytes += len(piece)
            self._turn += len(piece)
            if self._turn > _TURN_BYTES:
                self._turn = 0
                await asyncio.sleep(0)
            await self._feed.send_audio(piece)


def _check(found: AudioFormat) -> None:
    if not limits.MIN_RATE_HZ <= found.sample_rate <= limits.MAX_RATE_HZ:
        raise InvalidArgument(
            f"audio is a stream of {found.sample_rate} Hz; it should have {limits.MIN_RATE_HZ} to {limits.MAX_RATE_HZ}",
            field="audio",
        )

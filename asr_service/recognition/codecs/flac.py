"""Decodes FLAC as it comes. Pure; PyAV is imported on first use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Coding, Encoding
from asr_service.recognition.codecs.contract import check_stated, open_codec, wrong_start
from asr_service.recognition.codecs.flac_frames import FlacFrames, Frame, damaged, read_stream_info
from asr_service.recognition.wav_header import AudioFormat

if TYPE_CHECKING:
    import av

_INFO_BYTES = 34


class FlacDecoder:
    """Decodes FLAC.

    Args:
        rate: that the client has stated, None if it has not.
        channels: that the client has stated.
    """

    def __init__(self, rate: int | None, channels: int) -> None:
        self.format: AudioFormat | None = None
        self._stated = (rate, channels)
        self._head = bytearray()
        # Bytes of a metadata block that are yet to be left out, and whether it is the last.
        self._skip = 0
        self._is_last = False
        self._frames: FlacFrames | None = None
        self._context: av.AudioCodecContext
        self._bits = 0

    def take(self, packet: bytes) -> Iterator[bytes]:
        """See `Decoder.take`."""
        if self._frames is None or self._skip or not self._is_last:
            packet = self._read_metadata(packet)
            if not packet:
                return
        assert self._frames is not None
        self._frames.push(packet)
        while (frame := self._frames.next()) is not None:
            samples = self._decode(frame)
            if samples is not None:
                if frame.is_guess:
                    self._frames.confirm()
                yield samples
            elif not frame.is_guess:
                raise damaged("has a frame that cannot be decoded", self._frames.place)

    def rest(self) -> Iterator[bytes]:
        """See `Decoder.rest`."""
        if self._frames is None:
            if self._head:
                raise InvalidArgument("audio ends within the head of a FLAC stream", field="audio")
        elif not self._frames.is_empty:
            raise damaged("ends within a frame", self._frames.place)
        yield from ()

    def _read_metadata(self, packet: bytes) -> bytes:
        """Leaves the metadata out; returns what is behind it."""
        if self._frames is None:
            self._head += packet
            if not b"fLaC".startswith(self._head[:4]):
                raise wrong_start(bytes(self._head), Coding.FLAC)
            if len(self._head) < 8 + _INFO_BYTES:
                return b""
            if self._head[4] & 0x7F or int.from_bytes(self._head[5:8], "big") != _INFO_BYTES:
                raise damaged("does not begin with STREAMINFO", 0)
            self._open(bytes(self._head[8 : 8 + _INFO_BYTES]))
            self._is_last = self._head[4] >= 0x80
            packet = bytes(self._head[8 + _INFO_BYTES :])
            self._head.clear()
        while True:
            if self._skip:
                left = packet[self._skip :]
                self._skip -= len(packet) - len(left)
                packet = left
                if self._skip:
                    return b""
            if self._is_last:
                return packet
            packet = bytes(self._head) + packet
            self._head.clear()
            if len(packet) < 4:
                self._head += packet
                return b""
            self._is_last, self._skip = packet[0] >= 0x80, int.from_bytes(packet[1:4], "big")
            packet = packet[4:]

    def _open(self, block: bytes) -> None:
        info = read_stream_info(block)
        self.format = AudioFormat(Encoding.LINEAR16, info.sample_rate, info.channels)
        check_stated(self.format, *self._stated, "FLAC stream")
        self._frames, self._bits = FlacFrames(info), info.bits
        self._context = open_codec("flac", block, {"err_detect": "crccheck+explode"})

    def _decode(self, frame: Frame) -> bytes | None:
        """The samples of a frame; None if it is none."""
        import av

        assert self.format is not None
        try:
            decoded = self._context.decode(av.Packet(frame.data))
        except (av.FFmpegError, ValueError):
            return None
        if sum(part.samples for part in decoded) != frame.samples or len(decoded) != 1:
            return None
        samples = decoded[0].to_ndarray()
        if samples.dtype == np.int16:
            return bytes(samples.astype("<i2", copy=False).tobytes())
        # Of more bits there is room for 32.
        rounded = np.minimum(np.rint(samples / 65_536), 32_767)
        return bytes(rounded.astype("<i2").tobytes())

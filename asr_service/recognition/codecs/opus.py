"""Decodes Opus in Ogg and in WebM as it comes. Pure; PyAV is imported on first use."""

from __future__ import annotations

from collections.abc import Iterator

from asr_service.core.errors import InvalidArgument
from asr_service.core.values import Coding, Encoding
from asr_service.recognition.codecs.contract import open_codec, wrong_start
from asr_service.recognition.codecs.ogg import OggPages
from asr_service.recognition.codecs.webm import Head, WebmBlocks
from asr_service.recognition.wav_header import AudioFormat

OPUS_RATE = 48_000
"""Opus is decoded at this rate, whatever its encoder was given."""

OGG_MARK, WEBM_MARK = b"OggS\0", b"\x1a\x45\xdf\xa3"
"""First bytes of the two containers."""

# First bytes of an identification header (RFC 7845, 5.1).
_OPUS_MARK = b"OpusHead"


class OpusPackets:
    """Decodes the packets of one Opus stream, as one channel or two, whatever its encoder was given (RFC 7845, 5.1).

    Args:
        head: its identification header.
        channels: to be made.
        where: the container's name, for errors.
    """

    def __init__(self, head: bytes, channels: int, where: str) -> None:
        if len(head) < 19 or head[8] >> 4 or head[18] or not 1 <= head[9] <= 2:
            raise InvalidArgument(
                f"audio is a {where} stream of Opus with {head[9] if len(head) > 9 else 0} channels in a mapping that "
                "is not served; it should have one channel or two",
                field="audio",
            )
        self._skip = int.from_bytes(head[10:12], "little")
        self._channels = channels
        self._where = where
        # libopus makes as many channels as it is asked for. What its encoder put in front is left out here.
        asked = head[:9] + bytes((channels, 0, 0)) + head[12:19]
        self._context = open_codec("libopus", asked, {})

    def decode(self, packet: bytes, keep: int | None = None) -> bytes:
        """Decodes one packet to samples, the first `keep` of it at most."""
        import av

        samples = packet_samples(packet)
        try:
            decoded = self._context.decode(av.Packet(packet)) if samples else []
        except (av.FFmpegError, ValueError):
            decoded = []
        if len(decoded) != 1 or decoded[0].samples != samples:
            raise InvalidArgument(
                f"audio is a damaged {self._where} stream: a packet of Opus cannot be decoded", field="audio"
            )
        data: bytes = decoded[0].to_ndarray().astype("<i2", copy=False).tobytes()
        width = 2 * self._channels
        start = min(self._skip, samples)
        self._skip -= start
        return data[start * width : None if keep is None else keep * width]


class OggOpusDecoder:
    """Decodes Opus in Ogg (RFC 7845), also several streams one behind the other.

    Args:
        channels: to be made.
    """

    def __init__(self, channels: int) -> None:
        self.format: AudioFormat | None = AudioFormat(Encoding.LINEAR16, OPUS_RATE, channels)
        self._channels = channels
        self._pages = OggPages(_OPUS_MARK)
        self._start = b""
        self._opus: OpusPackets | None = None
        # Whether the comments have come, and samples up to the latest page that tells (None before the first).
        self._has_tags = False
        self._position: int | None = None

    def take(self, packet: bytes) -> Iterator[bytes]:
        """See `Decoder.take`."""
        if len(self._start) < 5:
            self._start += packet[:16]
            if not OGG_MARK.startswith(self._start[:5]):
                raise wrong_start(self._start, Coding.OGG_OPUS)
        self._pages.push(packet)
        while (page := self._pages.next()) is not None:
            packets = list(page.packets)
            if page.is_first:
                # The stream that is decoded may seem to begin once more, with anything.
                if not packets or not packets[0].startswith(_OPUS_MARK):
                    raise InvalidArgument(
                        "audio is a damaged Ogg stream: a page begins a stream of Opus without its head",
                        field="audio",
                    )
                self._opus = OpusPackets(packets.pop(0), self._channels, "Ogg")
                self._has_tags, self._position = False, None
            if packets and not self._has_tags:
                self._has_tags = True
                packets.pop(0)
            left = self._kept(packets, page.position, is_last=page.is_last)
            assert self._opus is not None
            for opus in packets:
                samples = packet_samples(opus)
                if piece := self._opus.decode(opus, left if left < samples else None):
                    yield piece
                left = max(0, left - samples)

    def rest(self) -> Iterator[bytes]:
        """See `Decoder.rest`."""
        if not self._pages.is_empty:
            raise InvalidArgument("audio ends within an Ogg page", field="audio")
        if self._opus is None and self._start:
            raise InvalidArgument("audio is an Ogg stream without Opus", field="audio")
        yield from ()

    def _kept(self, packets: list[bytes], position: int | None, *, is_last: bool) -> int:
        """Samples of a page that count: of the last page those up to the position that it states."""
        samples = sum(map(packet_samples, packets))
        if self._position is None and packets:
            # A recording may begin anywhere on a clock, unless its first page is its last.
            self._position = max(0, position - samples) if position is not None and not is_last else 0
        kept = samples
        if is_last and position is not None and self._position is not None:
            kept = min(samples, max(0, position - self._position))
        if self._position is not None:
            self._position += samples
        return kept


class WebmOpusDecoder:
    """Decodes Opus in WebM or Matroska, also several recordings one behind the other.

    Args:
        channels: to be made.
    """

    def __init__(self, channels: int) -> None:
        self.format: AudioFormat | None = AudioFormat(Encoding.LINEAR16, OPUS_RATE, channels)
        self._channels = channels
        self._blocks = WebmBlocks()
        self._start = b""
        self._opus: OpusPackets | None = None

    def take(self, packet: bytes) -> Iterator[bytes]:
        """See `Decoder.take`."""
        if len(self._start) < 4:
            self._start += packet[:16]
            if not WEBM_MARK.startswith(self._start[:4]):
                raise wrong_start(self._start, Coding.WEBM_OPUS)
        self._blocks.push(packet)
        while (found := self._blocks.next()) is not None:
            if isinstance(found, Head):
                self._opus = OpusPackets(found.opus, self._channels, "WebM")
                continue
            assert self._opus is not None
            keep = max(0, packet_samples(found.data) - found.discard) if found.discard else None
            if piece := self._opus.decode(found.data, keep):
                yield piece

    def rest(self) -> Iterator[bytes]:
        """See `Decoder.rest`."""
        if not self._blocks.is_empty:
            raise InvalidArgument("audio ends within a WebM element", field="audio")
        if self._opus is None and self._start:
            raise InvalidArgument("audio is a WebM stream without a track", field="audio")
        yield from ()


def packet_samples(packet: bytes) -> int:
    """Samples of a packet of Opus at 48 kHz by its first bytes (RFC 6716, 3.1); 0 if they make no packet."""
    if not packet:
        return 0
    config, count = packet[0] >> 3, (1, 2, 2, 0)[packet[0] & 3]
    if config < 12:
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    if not count:
        count = packet[1] & 63 if len(packet) > 1 else 0
    return frame * count if frame * count <= 5760 else 0

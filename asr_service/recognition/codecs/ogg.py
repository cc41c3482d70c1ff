"""Takes the packets of an Ogg stream (RFC 3533) out of its bytes, page by page. Pure.

Libraries read Ogg from files that they may wait for and seek in; none takes bytes as they come.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from asr_service.core.errors import InvalidArgument

_HEADER = 27
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_NO_POSITION = (1 << 64) - 1
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_NO_CRC = bytes(4)

LONGEST_PACKET = 131_072
"""Bytes of a packet: twice what any of Opus has, with room for comments. More of these is left out."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of one logical stream.

    Attributes:
        serial: of its logical stream.
        is_first, is_last: whether that begins or ends with it.
        position: where the last packet that ends in it ends, in samples; None if none does.
        packets: those that end in it.
    """

    serial: int
    is_first: bool
    is_last: bool
    position: int | None
    packets: tuple[bytes, ...]


class OggPages:
    """Cuts bytes into pages, and joins packets that go over pages. Other logical streams' pages are left out.

    The stream that counts is the latest whose first packet begins with one of the marks.

    Args:
        marks: of streams that are wanted.
    """

    def __init__(self, *marks: bytes) -> None:
        self._marks = marks
        self._bytes = bytearray()
        self._before = 0
        self._serial: int | None = None
        self._partial = bytearray()
        self._continues = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for a page's end."""
        return not self._bytes

    def push(self, data: bytes) -> None:
        """Takes bytes."""
        self._bytes += data

    def next(self) -> Page | None:
        """Gives the next page of the wanted stream; None until it is complete.

        Raises:
            InvalidArgument: the bytes are no Ogg pages.
        """
        while (page := self._next_page()) is not None:
            if page.is_first and page.packets and page.packets[0].startswith(self._marks):
                self._serial = page.serial
            if page.serial == self._serial:
                return page
        return None

    def _next_page(self) -> Page | None:
        data = self._bytes
        if not b"OggS\0".startswith(data[:5]):
            raise self._damaged("no page begins where the one before it ends")
        if len(data) < _HEADER:
            return None
        body = _HEADER + data[26]
        sizes = bytes(data[_HEADER:body])
        end = body + sum(sizes)
        if len(sizes) < data[26] or len(data) < end:
            return None
        page = bytes(data[:end])
        if page_crc(page) != int.from_bytes(page[22:26], "little"):
            raise self._damaged("the checksum of a page is wrong")
        del data[:end]
        flags, position = page[5], int.from_bytes(page[6:14], "little")
        serial = int.from_bytes(page[14:18], "little")
        packets = self._packets(page[body:], sizes, flags, serial)
        self._before += end
        return Page(
            serial,
            bool(flags & _FIRST),
            bool(flags & _LAST),
            None if position == _NO_POSITION else position,
            packets,
        )

    def _packets(self, body: bytes, sizes: bytes, flags: int, serial: int) -> tuple[bytes, ...]:
        """The packets that end in a page; what is left of the last one is kept, if it is of the wanted stream."""
        wanted = serial == self._serial and not flags & _FIRST
        partial = self._partial if wanted else bytearray()
        if wanted and bool(flags & _CONTINUED) != self._continues:
            raise self._damaged("a page is missing")
        packets, at, continues = [], 0, False
        for size in sizes:
            # Pictures among the comments: their beginning is enough.
            room = LONGEST_PACKET - len(partial)
            partial += body[at : at + min(size, room)]
            at += size
            continues = size == 255
            if not continues:
                packets.append(bytes(partial))
                partial.clear()
        if wanted or flags & _FIRST:
            self._partial, self._continues = partial, continues if sizes else wanted and self._continues
        return tuple(packets)

    def _damaged(self, what: str) -> InvalidArgument:
        return InvalidArgument(
            f"audio is a damaged Ogg stream: {what}, {self._before} bytes behind its start; send the bytes of one "
            "stream, from its first page on, all of them and in their order",
            field="audio",
        )


def page_crc(page: bytes) -> int:
    """The checksum of a page, which it has with zeros in its place.

    It is CRC-32 as zlib has it, with the bits of each byte and of the result the other way round and without inversion.
    """
    turned = (page[:22] + _NO_CRC + page[26:]).translate(_REVERSED)
    crc = zlib.crc32(turned, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)

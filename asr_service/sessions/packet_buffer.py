"""Buffers a stream's packets until they complete a chunk. Pure.

The engine can use whole chunks only, so packets that complete none would wake it for nothing. It says where the next
chunk ends (`Consumed`); where that is not known, packets are passed on at once.
"""

from __future__ import annotations

from asr_service.core.commands import Consumed


class PacketBuffer:
    """Buffers the packets of one stream until they complete a chunk: less than a chunk's bytes.

    Attributes:
        unconsumed: bytes received that the engine has not consumed, whether they are buffered or on their way.
    """

    def __init__(self) -> None:
        self.unconsumed = 0
        self._packets = bytearray()
        self._received = 0
        # Bytes received that complete the next chunk, and bytes of each chunk after it; 0 while they are not known.
        self._chunk_end = self._chunk_bytes = 0
        # Bytes received before the segment that goes on now.
        self._segment_start = -1

    @property
    def is_due(self) -> bool:
        """Whether what is buffered completes a chunk and should go now."""
        return bool(self._packets) and self._received >= self._chunk_end

    @property
    def next_chunk(self) -> tuple[int, int]:
        """Bytes of the stream that complete the next chunk, and bytes of each after it; 0 while they are not known."""
        return self._chunk_end, self._chunk_bytes

    def add(self, data: bytes) -> None:
        """Takes a packet."""
        self._packets += data
        self._received += len(data)
        self.unconsumed += len(data)

    def take(self) -> bytes:
        """Empties the buffer and returns what was in it."""
        data = bytes(self._packets)
        self._packets.clear()
        self._skip_chunks_before(self._received)
        return data

    def start_segment(self) -> None:
        """Starts a new segment: where the last one's chunks end says nothing about it."""
        self._chunk_end, self._chunk_bytes, self._segment_start = 0, 0, self._received

    def consumed(self, event: Consumed) -> None:
        """Takes over what the engine says it consumed, and where chunks end if it says so of this segment.

        A chunk may end before the place that was told first, where the model starts anew: see `is_due`.
        """
        self.unconsumed -= event.audio_bytes
        if self._received - self.unconsumed > self._segment_start:
            self._chunk_end, self._chunk_bytes = event.next_chunk_end, event.chunk_bytes
            self._skip_chunks_before(self._received - len(self._packets))

    def _skip_chunks_before(self, position: int) -> None:
        """Moves on to the first chunk that so many bytes of the stream do not complete."""
        if self._chunk_bytes and self._chunk_end <= position:
            self._chunk_end += self._chunk_bytes * (1 + (position - self._chunk_end) // self._chunk_bytes)

"""Joins a client's packets of audio to one message for each chunk, where the service says where chunks end. Pure.

The service's model takes audio by chunks, and nothing comes of part of one. So a packet that completes none may wait
for those that do, and service and bridge are spared most of their messages. Where a chunk ends is not always known:
then packets go at once. A packet never waits longer than the chunk's audio takes.
"""

from __future__ import annotations

from asr.v1 import asr_pb2

_RIFF = b"RIFF"
GRACE_S = 0.02
"""Beyond the time at which the rest of a chunk should be there, if it comes in real time."""


class PacketJoiner:
    """Holds the audio of one stream that completes no chunk yet.

    Args:
        bytes_per_s: of the audio.
        joins: whether anything is to be held at all.
    """

    def __init__(self, bytes_per_s: int, *, joins: bool) -> None:
        self._bytes_per_s = bytes_per_s
        self._joins = joins
        self._held = bytearray()
        self._received = 0
        # Bytes of the stream that complete the next chunk, and bytes of each chunk after it; 0 while not known.
        self._end = self._size = 0
        # Finalize requests that are not answered: what the service says of chunks may be about those before them.
        self._finalizes = 0

    def add(self, packet: bytes) -> tuple[bytes, ...]:
        """Takes a packet; returns the messages of audio that are to be sent now, none if it is held."""
        if packet[:4] == _RIFF:
            # Each WAV header has to stand at the start of a message, and is not counted by the service.
            self._joins = False
            held = self.take()
            return (held, packet) if held else (packet,)
        self._received += len(packet)
        if self._joins and self._received < self._end:
            self._held += packet
            return ()
        if not self._held:
            self._skip_to_next()
            return (packet,)
        self._held += packet
        return (self.take(),)

    def take(self) -> bytes:
        """Returns what is held, which is to be sent now."""
        data = bytes(self._held)
        self._held.clear()
        self._skip_to_next()
        return data

    @property
    def wait_s(self) -> float:
        """How long what is held may wait for the rest of its chunk, in seconds."""
        return (self._end - self._received) / self._bytes_per_s + GRACE_S

    def finalize(self) -> None:
        """Takes that a finalize request was sent: the model starts anew, and where its chunks end is not known."""
        self._finalizes += 1
        self._end = self._size = 0

    def response(self, response: asr_pb2.RecognizeResponse) -> bool:
        """Takes what a response says of chunks.

        Returns:
            Whether what is held is to be sent now.
        """
        if response.result.final_reason == asr_pb2.FINAL_REASON_FINALIZE:
            self._finalizes -= 1
        if self._finalizes or not self._joins:
            return False
        chunk = response.next_chunk
        self._end, self._size = chunk.end_bytes, chunk.chunk_bytes
        sent = self._received - len(self._held)
        if self._size and self._end <= sent:
            self._end += self._size * (1 + (sent - self._end) // self._size)
        return bool(self._held) and self._received >= self._end

    def _skip_to_next(self) -> None:
        """Moves on to the first chunk that what was received does not complete."""
        if self._size and self._end <= self._received:
            self._end += self._size * (1 + (self._received - self._end) // self._size)

"""Cuts one stream's bytes into the chunks that a model steps. Pure; clocks are arguments.

Bytes stay as they came until a chunk's worth is there; then exactly so much is cut, decoded and resampled. A mark is a
request in the byte stream for the final of everything before it: the chunk before a mark is cut shorter, with its true
length, and may be followed by silence that is on no clock (`finalize_silence_ms`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr_service.core.model import ModelInfo
from asr_service.core.values import Encoding, FinalReason, Samples
from asr_service.recognition.audio import AudioReader

BURST_S = 1.0
"""So much audio may come at once and count as live: the start of a sentence that was kept while connecting, or what a
network held up. What is further ahead of real time is an upload."""

# What a word that ends where the audio is cut needs to be heard to its end, at every look-ahead (docs/words.md).
_WORD_SILENCE_MS = 80
# Marks come later still: chunks of silence for models that write them.
_MARK_SILENCE_CHUNKS = 2

# Packets closer than this count as one arrival, so that tiny ones cost no memory.
_SAME_ARRIVAL_S = 0.001


@dataclass(frozen=True, slots=True)
class Mark:
    """A request in the byte stream for the final of everything before it.

    Attributes:
        position: bytes of the stream that lie before it.
        arrived: monotonic time at which it came.
        reason: of that final: FINALIZE, or one that ends the stream.
        tag: of the finalize request, else "".
    """

    position: int
    arrived: float
    reason: FinalReason
    tag: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Audio of one step.

    Attributes:
        samples: at the model's rate, float32 [n].
        client_samples: how many of them are the client's; the others are silence added before a final.
        is_first: whether the segment begins with it.
        is_last: whether the segment ends with it.
        due: monotonic time as of which the step is due.
    """

    samples: Samples
    client_samples: int
    is_first: bool
    is_last: bool
    due: float


def finalize_silence_ms(info: ModelInfo, *, punctuates: bool) -> int:
    """Chooses the silence that follows audio whose final is asked for, in ms: docs/words.md has the measurements.

    Args:
        info: of the model.
        punctuates: whether it writes punctuation marks: `Vocabulary.punctuates`.
    """
    return round(_MARK_SILENCE_CHUNKS * info.chunk_ms) if punctuates else _WORD_SILENCE_MS


class ChunkCutter:
    """Cuts one stream's bytes into chunks.

    Args:
        encoding: how bytes are to be read.
        sample_rate: of the client's audio, Hz.
        info: of the model.
        now: monotonic seconds.
        finalize_silence_ms: digital silence that follows the audio before each mark, so that a word which ends there is
            heard to its end.

    Attributes:
        mark: the next mark, None if there is none.
        silence_added: whether the segment's audio is all cut, and followed by its silence.
        clock: monotonic seconds; goes on by the length of the audio that is cut, at most BURST_S behind its arrival.
    """

    def __init__(
        self, encoding: Encoding, sample_rate: int, info: ModelInfo, now: float, finalize_silence_ms: int
    ) -> None:
        self.silence_added = False
        self._info = info
        # Undecoded bytes, and where they and the marks lie in the stream's bytes.
        self._bytes = bytearray()
        self._received = 0
        self._decoded = 0
        self._marks: deque[Mark] = deque()
        self.set_format(encoding, sample_rate)
        # (Bytes received by then, monotonic time.)
        self._arrivals: deque[tuple[int, float]] = deque()
        # Decoded samples that no chunk has taken, and how many of them at the end are silence that was added.
        self._samples: list[Samples] = []
        self._sample_count = 0
        self._silent_count = 0
        self._silence = np.zeros(finalize_silence_ms * info.sample_rate // 1000, np.float32)
        self.clock = now - BURST_S

    def set_format(self, encoding: Encoding, sample_rate: int) -> None:
        """Says how bytes are to be read, before the first of them; arguments as for the class."""
        assert not self._received
        self._reader = AudioReader(encoding, sample_rate, self._info.sample_rate)
        # Fewer undecoded bytes cannot make a chunk; bytes of each chunk, 0 where that is not always the same.
        self._least_bytes = self._reader.bytes_for(self._info.first_chunk_samples)
        self._chunk_bytes = self._reader.exact_bytes(self._info.chunk_samples)

    @property
    def mark(self) -> Mark | None:
        """The next mark, None if there is none."""
        return self._marks[0] if self._marks else None

    @property
    def may_complete(self) -> bool:
        """Whether the bytes that are there may complete a chunk."""
        return len(self._bytes) >= self._least_bytes

    def add(self, data: bytes, now: float) -> None:
        """Takes bytes that came at `now`."""
        self._bytes += data
        self._received += len(data)
        if self._arrivals and now - (last := self._arrivals[-1][1]) < _SAME_ARRIVAL_S:
            self._arrivals[-1] = (self._received, last)
        else:
            self._arrivals.append((self._received, now))

    def add_mark(self, now: float, reason: FinalReason, tag: str = "") -> None:
        """Places a mark behind all bytes that have come."""
        self._marks.append(Mark(self._received, now, reason, tag))

    def pass_mark(self) -> Mark:
        """Takes the next mark away: everything before it is cut."""
        self.silence_added = False
        return self._marks.popleft()

    def cut(self, *, is_first: bool) -> Chunk | None:
        """Cuts the next chunk if its audio is there: a full one, or before a mark what is left; None without one."""
        full = self._info.first_chunk_samples if is_first else self._info.chunk_samples
        if not self._decode_to(full):
            if not self._marks:
                return None
            if left := self._marks[0].position - self._decoded:
                self._decode(left)
            if self._sample_count < full:
                self._keep(self._reader.flush())
                self._add_silence(is_first=is_first)
        if not self._sample_count:
            # A mark with nothing before it.
            return None
        return self._take(full, is_first=is_first)

    def cut_ahead(self) -> Chunk | None:
        """Cuts the chunk after one that is not answered yet: a full one of plain audio; None if that is not there.

        What a mark or silence makes of the next chunk, the answer may change (`put_back`).
        """
        full = self._info.chunk_samples
        if self.silence_added or not self._decode_to(full):
            return None
        return self._take(full, is_first=False)

    def put_back(self, chunks: Sequence[Chunk], clock: float) -> None:
        """Takes chunks of `cut_ahead` back, the last ones that were cut, to be cut anew.

        Args:
            chunks: in their order.
            clock: what `clock` was before the first of them was cut.
        """
        self._samples[:0] = [chunk.samples for chunk in chunks]
        self._sample_count += sum(chunk.samples.size for chunk in chunks)
        self.clock = clock

    def _decode_to(self, full: int) -> bool:
        """Decodes until so many samples are there; returns whether they are. Nothing behind a mark is decoded."""
        limit = self._marks[0].position if self._marks else self._received
        while self._sample_count < full:
            size = self._reader.bytes_for(full - self._sample_count)
            if size > limit - self._decoded:
                if not self._marks:
                    self._least_bytes = size
                return False
            self._decode(size)
        return True

    def _decode(self, size: int) -> None:
        self._keep(self._reader.read(bytes(self._bytes[:size])))
        del self._bytes[:size]
        self._decoded += size

    def _take(self, full: int, *, is_first: bool) -> Chunk:
        """Makes a chunk of the samples that are there, of which there may be more or fewer than so many."""
        is_last = self._sample_count < full
        client_samples = min(full, self._sample_count - self._silent_count)
        due = self._due(client_samples, is_last=is_last)
        joined = self._samples[0] if len(self._samples) == 1 else np.concatenate(self._samples)
        samples, rest = joined[:full], joined[full:]
        self._silent_count -= len(samples) - client_samples
        self._samples, self._sample_count = ([rest] if rest.size else []), rest.size
        return Chunk(samples, client_samples, is_first, is_last, due)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have come and are not decoded yet."""
        return self._received - self._decoded

    def next_chunk(self, *, is_ahead: bool) -> tuple[int, int]:
        """Says where the chunk that is not complete yet ends, see `Stream.next_chunk`.

        Args:
            is_ahead: whether nothing is cut for now, so that a whole chunk may be there already.
        """
        if self._marks:
            # A mark says where the next chunk ends.
            return 0, 0
        needed, size = self._least_bytes, self._chunk_bytes
        if is_ahead:
            needed = self._reader.bytes_for(self._info.chunk_samples - self._sample_count)
        end = self._decoded + needed
        if end <= self._received:
            if not size:
                return 0, 0
            end += size * (1 + (self._received - end) // size)
        return end, size

    def _due(self, client_samples: int, *, is_last: bool) -> float:
        """Moves the clock on by the chunk's audio and gives the time as of which its step is due."""
        arrived = self._arrived()
        self.clock = max(self.clock + client_samples / self._info.sample_rate, arrived - BURST_S)
        return self._marks[0].arrived if is_last or self.silence_added else max(arrived, self.clock)

    def _arrived(self) -> float:
        """When the last byte decoded so far came."""
        arrivals = self._arrivals
        while arrivals[0][0] < self._decoded:
            arrivals.popleft()
        return arrivals[0][1]

    def _keep(self, samples: Samples) -> None:
        if samples.size:
            self._samples.append(samples)
            self._sample_count += samples.size

    def _add_silence(self, *, is_first: bool) -> None:
        """Adds the silence that follows a segment, once, unless the segment has no audio."""
        has_audio = self._sample_count or not is_first
        if not has_audio or self.silence_added or not self._silence.size:
            return
        self._keep(self._silence)
        self._silent_count = self._silence.size
        self.silence_added = True

"""What front ends and engines write to each other: records of chunks and leases one way, frames of answers the other.

Chunks' samples are not among it: they lie in memory that both see (`sample_pool.py`). Both ends are processes of one
service on one machine, so numbers are the machine's own and a reader trusts their order; it checks lengths alone.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr_service.core.step import StepAnswers
from asr_service.core.values import PhraseBoost

# ------------------------------------------------------------------------------------------- front end to engine

RECORD = np.dtype(
    [
        ("slot", np.uint32),
        ("lease", np.uint32),
        ("count", np.uint32),
        ("kind", np.uint8),
        ("flags", np.uint8),
        ("place", np.uint16),
        ("due", np.float64),
        ("extra", np.int64),
    ]
)
"""What a front end writes, 32 bytes each.

- CHUNK: `count` samples lie at `place` (0 or 1) of the slot; `flags` are `ChunkFlags`; it is due at the monotonic time
  `due`. `lease` is the number under which the slot was leased.
- RELEASE: the slot is given back, `lease` as above.
- LEASE: asks for `flags` slots; `slot` is the number of the request, `extra` the index of the prompt, `count` the bytes
  of pickled phrases that follow, filled up to whole records.
"""
RECORD_BYTES = RECORD.itemsize
_RECORD = struct.Struct("=IIIBBHdq")
assert _RECORD.size == RECORD_BYTES

Records = npt.NDArray[np.void]


class RecordKind(IntEnum):
    """What a record says."""

    CHUNK = 0
    RELEASE = 1
    LEASE = 2


# As plain numbers: operations on an enum's members take long.
_CHUNK = int(RecordKind.CHUNK)


def pack_chunk(slot: int, lease: int, count: int, flags: int, place: int, due: float) -> bytes:
    """Packs that a chunk lies in the pool."""
    return _RECORD.pack(slot, lease, count, _CHUNK, flags, place, due, 0)


def pack_release(slot: int, lease: int) -> bytes:
    """Packs that a slot is given back."""
    return _RECORD.pack(slot, lease, 0, RecordKind.RELEASE, 0, 0, 0.0, 0)


def pack_lease(request: int, slots: int, prompt: int, boosts: Sequence[PhraseBoost]) -> bytes:
    """Packs a request for slots of one call, which are conditioned alike."""
    phrases = pickle.dumps(tuple(boosts)) if boosts else b""
    head = _RECORD.pack(request, 0, len(phrases), RecordKind.LEASE, slots, 0, 0.0, prompt)
    return head + phrases.ljust(payload_records(len(phrases)) * RECORD_BYTES, b"\0")


def payload_records(count: int) -> int:
    """Returns how many records so many bytes after one fill."""
    return -(-count // RECORD_BYTES)


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A request for slots.

    Attributes:
        request: number that the answer carries.
        slots: how many; all of them or none are leased.
        prompt: index of the language prompt, -1 for none.
        boosts: phrases that are boosted.
    """

    request: int
    slots: int
    prompt: int
    boosts: tuple[PhraseBoost, ...]


def read_lease(record: np.void, payload: bytes) -> LeaseRequest:
    """Reads a request of its record and the bytes after that."""
    boosts = pickle.loads(payload[: int(record["count"])]) if record["count"] else ()
    return LeaseRequest(int(record["slot"]), int(record["flags"]), int(record["extra"]), boosts)


# ------------------------------------------------------------------------------------------- engine to front end

ROW = np.dtype(
    [
        ("slot", np.uint32),
        ("lease", np.uint32),
        ("frames", np.uint16),
        ("tokens", np.uint16),
        ("flags", np.uint32),
    ]
)
"""An answer to a chunk: encoder frames decoded, how many of the frame's tokens are its, and `RowFlags`."""
TOKEN = np.dtype([("id", np.int32), ("frame", np.int32), ("prob", np.float32)])
"""A token of an answer; `frame` counts from the chunk's first."""

# Kind, rows, tokens, number of the request; when the step began and ended; the id of a failure.
_HEADER = struct.Struct("=IIIIdd16s")


class FrameKind(IntEnum):
    """What a frame of the engine says.

    ANSWERS: to chunks of one step, of this front end's slots. LEASED: to a request; one row for each slot. To a request
    that is refused: AT_CAPACITY, OVERLOADED (`started` is the load then), INVALID (the rows are the bytes of a text) or
    BROKEN (`failure` is the id of a bug).
    """

    ANSWERS = 1
    LEASED = 2
    AT_CAPACITY = 3
    OVERLOADED = 4
    INVALID = 5
    BROKEN = 6


_INVALID = int(FrameKind.INVALID)


class RowFlags(IntEnum):
    """What became of a chunk that has no tokens; its slot takes no more chunks until it is given back."""

    BROKEN = 1
    FAILED = 2


class Frame(NamedTuple):
    """What an engine has written at one time.

    Attributes:
        kind: what it says.
        request: number of the request that it answers, 0 for ANSWERS.
        started, ended: of the step, monotonic.
        failure: id of the failure, "" if there was none.
        rows: (slot, lease, frames, tokens, flags) of each chunk or slot.
        tokens, token_frames, probs: of all rows, one after the other.
        text: why a request is INVALID.
    """

    kind: int
    request: int
    started: float
    ended: float
    failure: str
    rows: list[tuple[int, int, int, int, int]]
    tokens: list[int]
    token_frames: list[int]
    probs: list[float]
    text: str


def pack_rows(slots: npt.NDArray[Any], leases: npt.NDArray[Any], answers: StepAnswers | None) -> Records:
    """Makes the rows of a frame; without answers those of a step that has failed."""
    rows = np.zeros(len(slots), ROW)
    rows["slot"], rows["lease"] = slots, leases
    if answers is None:
        rows["flags"] = RowFlags.FAILED
    else:
        rows["frames"], rows["tokens"] = answers.frames, answers.counts
        # One is `BROKEN`.
        rows["flags"] = answers.broken
    return rows


def pack_tokens(answers: StepAnswers) -> Records:
    """Makes the tokens of a frame."""
    tokens = np.empty(len(answers.tokens), TOKEN)
    tokens["id"], tokens["frame"], tokens["prob"] = answers.tokens, answers.token_frames, answers.probs
    return tokens


def pack_header(
    kind: int,
    rows: int,
    tokens: int = 0,
    *,
    request: int = 0,
    started: float = 0.0,
    ended: float = 0.0,
    failure: str = "",
) -> bytes:
    """Packs the start of a frame; rows and tokens follow it as they are."""
    return _HEADER.pack(kind, rows, tokens, request, started, ended, failure.encode())


def pack_invalid(request: int, text: str) -> bytes:
    """Packs the whole frame that refuses a request for what it asks."""
    data = text.encode()
    rows = -(-len(data) // ROW.itemsize)
    return pack_header(FrameKind.INVALID, rows, request=request) + data.ljust(rows * ROW.itemsize, b"\0")


def read_frames(data: bytearray) -> Iterator[Frame]:
    """Takes the whole frames off the front of what has been read, and leaves the rest."""
    place = 0
    while len(data) - place >= _HEADER.size:
        kind, row_count, token_count, request, started, ended, failure = _HEADER.unpack_from(data, place)
        rows_at = place + _HEADER.size
        tokens_at = rows_at + row_count * ROW.itemsize
        end = tokens_at + token_count * TOKEN.itemsize
        if len(data) < end:
            break
        text, rows = "", []
        if kind == _INVALID:
            text = bytes(data[rows_at:tokens_at]).rstrip(b"\0").decode()
        else:
            rows = np.frombuffer(data, ROW, row_count, rows_at).tolist()
        # A copy, since the memory of `data` cannot be cut while an array looks at it.
        tokens = np.frombuffer(data, TOKEN, token_count, tokens_at).copy()
        yield Frame(
            kind, request, started, ended, failure.rstrip(b"\0").decode(), rows,
            tokens["id"].tolist(), tokens["frame"].tolist(), tokens["prob"].tolist(), text,
        )  # fmt: skip
        place = end
    del data[:place]

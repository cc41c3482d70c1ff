"""Numbers that all processes of the service see: what each engine and front end does, each written by its owner alone.

It is memory that is shared by being forked with it, so that a number is read without a message and without a lock. Each
number is written at once; two of them may be of two moments.
"""

from __future__ import annotations

import ctypes
import mmap

from asr_service.engine.contract import EngineState


class EngineRecord(ctypes.Structure):
    """What an engine tells: see `asr_service.engine.contract.EngineRecord`."""

    _fields_ = (
        ("load", ctypes.c_double),
        ("busy_since", ctypes.c_double),
        ("beat", ctypes.c_double),
        ("state", ctypes.c_uint32),
        ("slots", ctypes.c_uint32),
        ("limit", ctypes.c_uint32),
        ("leased", ctypes.c_uint32),
        ("ready", ctypes.c_uint32),
        ("running", ctypes.c_uint32),
        ("measured", ctypes.c_uint32),
        ("batch_limit", ctypes.c_uint32),
        ("step_kind", ctypes.c_uint32),
    )

    @property
    def is_running(self) -> bool:
        """Whether its model is warm, and it steps."""
        return bool(self.state == EngineState.RUNNING)


class FrontEndRecord(ctypes.Structure):
    """What a front end tells.

    Attributes:
        streams: that it has open.
        carries: streams whose packets it can carry as measured, 0 if that is not known.
        busy: share of the time that its event loop works.
        beat: monotonic time of its last sign of life.
    """

    _fields_ = (
        ("busy", ctypes.c_double),
        ("beat", ctypes.c_double),
        ("streams", ctypes.c_uint32),
        ("carries", ctypes.c_uint32),
    )


class ServiceRecord(ctypes.Structure):
    """What the supervisor tells.

    Attributes:
        is_serving: whether streams are admitted where processes for them run.
        is_draining: whether the service is about to end.
        beat: monotonic time of the supervisor's last sign of life.
    """

    _fields_ = (("beat", ctypes.c_double), ("is_serving", ctypes.c_uint32), ("is_draining", ctypes.c_uint32))


class Board:
    """The records of all processes; to be made before they are forked.

    Args:
        engines, front_ends: how many of each there will be.

    Attributes:
        engines: `EngineRecord`, by number.
        front_ends: `FrontEndRecord`, by number.
        service: `ServiceRecord`.
    """

    def __init__(self, engines: int, front_ends: int) -> None:
        engine_bytes = ctypes.sizeof(EngineRecord) * engines
        front_end_bytes = ctypes.sizeof(FrontEndRecord) * front_ends
        memory = mmap.mmap(-1, engine_bytes + front_end_bytes + ctypes.sizeof(ServiceRecord))
        self.engines = (EngineRecord * engines).from_buffer(memory)
        self.front_ends = (FrontEndRecord * front_ends).from_buffer(memory, engine_bytes)
        self.service = ServiceRecord.from_buffer(memory, engine_bytes + front_end_bytes)

    @property
    def is_serving(self) -> bool:
        """Whether streams are admitted: by a front end that listens, to an engine that runs."""
        return (
            bool(self.service.is_serving)
            and any(engine.is_running for engine in self.engines)
            and any(front_end.beat for front_end in self.front_ends)
        )

    @property
    def streams(self) -> int:
        """Streams that are open, over all front ends."""
        return sum(front_end.streams for front_end in self.front_ends)

    @property
    def stream_limit(self) -> int:
        """Streams that may be open: what the engines that run admit, or fewer if front ends carry no more packets."""
        engines = int(sum(engine.limit for engine in self.engines if engine.is_running))
        carries = [front_end.carries for front_end in self.front_ends if front_end.beat]
        # What one of them is not busy enough to know is no limit.
        return min(engines, int(sum(carries))) if carries and all(carries) else engines

    @property
    def measured_streams(self) -> int:
        """Live streams that the engines that run sustain as measured up to now; 0 if that is not measured."""
        return sum(engine.measured for engine in self.engines if engine.is_running)

    @property
    def load(self) -> float:
        """The largest load of an engine: how long live chunks take, over their duration."""
        return float(max(engine.load for engine in self.engines))

    def clear_engine(self, number: int) -> None:
        """Wipes what an engine told that has ended."""
        self.engines[number] = EngineRecord()

    def clear_front_end(self, number: int) -> None:
        """Wipes what a front end told that has ended."""
        self.front_ends[number] = FrontEndRecord()

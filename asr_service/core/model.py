"""The protocol between an engine and a model: what a model is, and what it can do. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, runtime_checkable

from asr_service.core.step import BatchStepper


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Describes a model to the rooms that use it.

    Attributes:
        name: hub name or file name.
        device: "cpu" or "cuda:N".
        precision: "fp32", "tf32" or "bf16".
        decoder: "rnnt" or "ctc".
        sample_rate: Hz.
        att_context: (left, right) in encoder frames.
        pieces: the vocabulary's pieces by token id, as SentencePiece writes them (word starts carry U+2581).
        frame_samples: samples that an encoder frame stands for (1280: 80 ms).
        chunk_frames: encoder frames that a full step makes (look-ahead + 1).
        first_chunk_samples: samples that the first step of a segment needs.
        chunk_samples: samples that each later step needs (chunk_frames * frame_samples).
        languages: BCP-47 codes of the languages that it recognizes; empty if that is not known.
        prompts: (language, index) of the language prompts that a stream may name; empty for a model that takes none.
            "auto" leaves the language to the model. Several languages may share an index.
        word_lag_ms: by how much a word's first token comes after the word's start, and the end of its last token's
            frame after the word's end; typical of the model, subtracted from the words' times.
    """

    name: str
    device: str
    precision: str
    decoder: str
    sample_rate: int
    att_context: tuple[int, int]
    pieces: tuple[str, ...]
    frame_samples: int
    chunk_frames: int
    first_chunk_samples: int
    chunk_samples: int
    languages: tuple[str, ...] = ()
    prompts: tuple[tuple[str, int], ...] = ()
    word_lag_ms: tuple[float, float] = (0.0, 0.0)

    @property
    def first_prompt(self) -> int:
        """Index of the first language prompt, -1 for a model that takes none: for steps that no stream waits for."""
        return self.prompts[0][1] if self.prompts else -1

    @property
    def frame_ms(self) -> float:
        """Duration of one encoder frame in ms."""
        return 1000.0 * self.frame_samples / self.sample_rate

    @property
    def chunk_ms(self) -> float:
        """Audio that one full step takes, in ms."""
        return 1000.0 * self.chunk_samples / self.sample_rate

    @property
    def look_ahead_ms(self) -> float:
        """Audio after a frame that the model waits for, in ms."""
        return self.frame_ms * (self.chunk_frames - 1)


class StepKind(IntEnum):
    """How a model's steps run: on the host, or on a device that replays recordings or is told each kernel."""

    HOST = 0
    RECORDED = 1
    EAGER = 2


class OutOfMemory(Exception):
    """The device had no memory for a step or a warm-up; smaller batches may fit.

    As after any failure of a step, the state of its slots is undefined.
    """


class DeviceLost(Exception):
    """The device answers no more, after an error that lasts for as long as the process: no step will work again."""


class StreamingModel(BatchStepper, Protocol):
    """A model that steps many streams at once. One thread only may use it."""

    @property
    def info(self) -> ModelInfo:
        """The description of the model."""
        ...

    @property
    def slots(self) -> int:
        """Rows of pooled state: streams that can be open at the same time."""
        ...

    def warm_up(self, max_batch: int, progress: Callable[[str], None]) -> None:
        """Runs every code path that live steps take, so that the first stream finds them warm.

        Raises:
            OutOfMemory: batches of this size do not fit; it may be called again with a smaller one.
        """
        ...


@dataclass(frozen=True, slots=True)
class Readings:
    """What a model has measured of its own work.

    Attributes:
        stages: seconds spent in each stage of all steps so far, by its name.
        memory_used: bytes of the device's memory that are taken, 0 where it has none of its own.
        memory_total: bytes of memory the device has.
        recorded: sizes of batches whose steps are replayed from recordings; none where all are launched kernel by
            kernel; None where nothing is to be recorded, as on a CPU.
    """

    stages: tuple[tuple[str, float], ...] = ()
    memory_used: int = 0
    memory_total: int = 0
    recorded: tuple[int, ...] | None = None

    @property
    def step_kind(self) -> StepKind:
        """How steps run."""
        if self.recorded is None:
            return StepKind.HOST
        return StepKind.RECORDED if self.recorded else StepKind.EAGER


@runtime_checkable
class Instrumented(Protocol):
    """A `StreamingModel` that also measures its own work."""

    def readings(self) -> Readings:
        """Returns what has been measured up to now; called by the model's thread, a few times a second."""
        ...

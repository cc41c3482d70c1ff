"""How long a step takes: by stage, on the host, by kernel; for NVIDIA's shapes with random weights, made in memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from asr_service.core.model_settings import ModelSettings
from asr_service.core.step import ChunkFlags, StepBatch
from asr_service.model.devices import cpu_has_bf16
from asr_service.model.loading import assemble
from asr_service.model.precision import why_unsupported
from asr_service.model.reading import ModelParts
from asr_service.model.recorded_steps import RecordedSteps
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.torch_encoder.cuda_graphs import CudaRecorder, EagerRecorder
from bench.gpu import Section
from bench.gpu_timing import device_ms, profile
from testbed.babble import babble
from testbed.random_parts import random_parts
from testbed.shapes import SHAPES, Shape

LOOK_AHEAD = (70, 1)
_BATCHES = {"large": (2048, 512, 128, 64, 8, 1), "0.6b": (512, 128, 1), "tiny": (8, 1)}
_PRECISIONS = {"large": ("bf16", "fp32", "tf32"), "0.6b": ("bf16", "fp32"), "tiny": ("fp32", "bf16")}
_FUSED = {"large": (2048, 512, 64, 8), "0.6b": (512, 128, 1), "tiny": (8, 1)}
# Of these batches the kernels are listed, of the first shape in its first precision.
_PROFILED = (512, 8)
# Of the peak of products, that a step of many streams may be expected to reach.
SHARE = 0.6
_WARM, _LEAST, _MOST, _CELL_S = 4, 8, 30, 0.6


def measure(section: Section) -> None:
    """Measures the shapes, the most telling first."""
    device = torch.device(section.device)
    cells = []
    for name in ("tiny",) if section.quick else ("large", "0.6b"):
        made: list[ModelParts] = []
        if not section.attempt(f"{name}: weights", partial(_make_parts, section, name, device, made)):
            continue
        for precision in _PRECISIONS[name]:
            if why_unsupported(precision, device.type, cpu_has_bf16=cpu_has_bf16()):
                continue
            for encoder in ("torch", "fused") if device.type == "cuda" else ("torch",):
                cells.append((name, made[0], precision, encoder))
                _attempt(section, _precision, cells[-1], device)
    for cell in cells:
        if cell[0] == cells[0][0] and cell[2] == cells[0][2]:
            _attempt(section, _profiles, cell, device)


def _attempt(
    section: Section, work: Callable[..., None], cell: tuple[str, ModelParts, str, str], device: torch.device
) -> None:
    """Does a part of the section for a model in a precision, and gives its memory back."""
    name, _, precision, encoder = cell
    section.attempt(f"{name} in {precision} {encoder}", partial(work, section, *cell, device))
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _make_parts(section: Section, name: str, device: torch.device, made: list[ModelParts]) -> None:
    began = time.perf_counter()
    parts, _ = random_parts(SHAPES[name], device)
    section.row("weights", model=name, seconds=round(time.perf_counter() - began, 2))
    made.append(parts)


def _precision(
    section: Section, name: str, parts: ModelParts, precision: str, encoder: str, device: torch.device
) -> None:
    """Measures all batches of one model in one precision, from the largest down, as they are recorded."""
    shape = SHAPES[name]
    batches = _BATCHES[name] if encoder == "torch" else _FUSED[name]
    began = time.perf_counter()
    model = _make_model(name, parts, precision, encoder, device, max(batches))
    section.row(
        "model", model=name, precision=precision, encoder=encoder, seconds=round(time.perf_counter() - began, 2),
        slot_mb=round(model.state_bytes() / 1e6, 3),
    )  # fmt: skip
    audio = babble(30.0, 5)
    for batch in batches:
        cell = (name, f"{precision} {encoder}", batch)
        section.attempt(" ".join(map(str, cell)), partial(_cell, section, model, shape, cell, audio, device))


def _make_model(
    name: str, parts: ModelParts, precision: str, encoder: str, device: torch.device, slots: int
) -> NemoStreamingModel:
    settings = ModelSettings(name, LOOK_AHEAD, precision=precision, encoder=encoder)
    model = assemble(parts, settings, device, slots)
    if device.type == "cpu":
        # As on a GPU, where the recorder is not there too.
        model.record_with(EagerRecorder())
    return model


class _Streams:
    """Steps so many streams of babble, each at another place of it.

    Args:
        model: steps them.
        batch: how many.
        audio: of all of them.

    Attributes:
        times, cpu: of each step, ms: from its begin to its answers, and of the thread's work without its waiting.
        tokens: of each step.
    """

    def __init__(self, model: NemoStreamingModel, batch: int, audio: np.ndarray) -> None:
        self.times: list[float] = []
        self.cpu: list[float] = []
        self.tokens: list[int] = []
        self._model, self._batch = model, batch
        size = model.info.chunk_samples
        self._chunks = np.lib.stride_tricks.sliding_window_view(audio, size)
        self._slots = np.arange(batch, dtype=np.int32)
        self._places = 7919 * np.arange(batch) % (len(self._chunks) - size)
        self._waited_s = 0.0
        for slot in range(batch):
            model.open(slot, model.info.first_prompt)
        if model._recorded is not None:
            self._watch(model._recorded)

    def step(self, first: bool = False) -> None:
        """Makes a step of all of them."""
        info, batch = self._model.info, self._batch
        size, samples = info.chunk_samples, self._chunks[self._places]
        if first:
            samples[:, : size - info.first_chunk_samples] = 0.0
        counts = np.full(batch, info.first_chunk_samples if first else size, np.int32)
        flags = np.full(batch, ChunkFlags.FIRST if first else 0, np.uint8)
        self._places = (self._places + size) % len(self._chunks)
        self._waited_s = 0.0
        began, began_cpu = time.perf_counter(), time.thread_time()
        self._model.submit(StepBatch(self._slots, samples, self._slots, counts, flags))
        answers = self._model.collect()
        self.times.append(1000 * (time.perf_counter() - began))
        self.cpu.append(1000 * (time.thread_time() - began_cpu - self._waited_s))
        self.tokens.append(len(answers.tokens))

    def warm_up(self) -> float:
        """Makes the first steps, which do not count; returns how long the very first took, seconds."""
        began = time.perf_counter()
        self.step(first=True)
        first_s = time.perf_counter() - began
        for _ in range(_WARM):
            self.step()
        for measured in (self.times, self.cpu, self.tokens):
            measured.clear()
        return first_s

    def _watch(self, recorded: RecordedSteps) -> None:
        """Adds up the thread's time in which it waits for the device: CUDA waits by asking again and again."""
        inner = partial(RecordedSteps._downloaded, recorded)

        def downloaded(*given: Any) -> Any:
            began = time.thread_time()
            found = inner(*given)
            self._waited_s += time.thread_time() - began
            return found

        recorded._downloaded = downloaded  # type: ignore[method-assign, assignment]


def _cell(
    section: Section,
    model: NemoStreamingModel,
    shape: Shape,
    cell: tuple[str, str, int],
    audio: np.ndarray,
    device: torch.device,
) -> None:
    name, precision, batch = cell
    info, cuda = model.info, device.type == "cuda"
    streams = _Streams(model, batch, audio)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    first_s = streams.warm_up()
    times, tokens = streams.times, streams.tokens
    ends_at = time.perf_counter() + (_CELL_S if cuda else 0.3)
    while len(times) < _LEAST or (time.perf_counter() < ends_at and len(times) < _MOST):
        streams.step()
    row: dict[str, Any] = {
        "model": name, "precision": precision, "batch": batch, "wall_ms": round(median(times), 3),
        "p99_ms": round(sorted(times)[int(0.99 * len(times))], 3), "host_cpu_ms": round(median(streams.cpu), 3),
    }  # fmt: skip
    row["tokens_per_frame"] = round(sum(tokens) / len(tokens) / batch / info.chunk_frames, 2)
    row |= _stages(model, streams.step, batch, device)
    row["encoder_ms"] = round(_encoder_ms(model, batch, device), 4)
    row["gflop"] = round(batch * step_operations(shape, info.chunk_frames) / 1e9, 1)
    row["first_s"] = round(first_s, 2)
    if cuda:
        row["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    section.row("step", **row)


def _profiles(
    section: Section, name: str, parts: ModelParts, precision: str, encoder: str, device: torch.device
) -> None:
    """Lists the kernels of some batches' steps. Last of all: what has been profiled once may be slower from then on."""
    batches = _PROFILED if device.type == "cuda" else (1,)
    model = _make_model(name, parts, precision, encoder, device, max(batches))
    audio = babble(30.0, 5)
    for batch in batches:
        streams = _Streams(model, batch, audio)
        streams.warm_up()
        found = profile(streams.step, 3 if device.type == "cuda" else 1, device)
        cell = {"model": name, "precision": f"{precision} {encoder}", "batch": batch}
        section.row("kernels", **cell, longest=found.pop("longest"))
        section.row("work", **cell, **found)


def _stages(
    model: NemoStreamingModel, step: Callable[[], None], batch: int, device: torch.device
) -> dict[str, float]:
    """Times the stages by events on the device, ms: from a stage's first work to its last, gaps included.

    Of a recorded step these are `step`, all of it, and `decoder`, as many rounds of the decoder as are in it.
    """
    if model._recorded is not None:
        # What follows a step's replay finds the same memory again: both can be replayed one by one.
        one = model._recorded._recordings[model._bucket(batch)]
        with torch.inference_mode():
            step_ms, decoder_ms = (device_ms(device, work, 0.3) for work in (one.step, one.more))
        return {"step_ms": round(step_ms, 3), "decoder_ms": round(decoder_ms, 3)}
    if device.type != "cuda":
        before = dict(model.readings().stages)
        for _ in range(4):
            step()
        return {f"{s}_ms": round((t - before[s]) * 250, 3) for s, t in model.readings().stages}
    marks: dict[str, list[tuple[Any, ...]]] = {}

    def timed(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            pair = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            pair[0].record()
            try:
                return inner(*given, **named)
            finally:
                pair[1].record()
                marks.setdefault(name, []).append(pair)

        return run

    parts: dict[str, Any] = {
        "features": model._features,
        "encoder": model._encoder,
        "decoder": model._decoder,
    }
    for name, part in parts.items():
        part.step = timed(name, part.step)
    try:
        for _ in range(6):
            step()
        torch.cuda.synchronize(device)
    finally:
        for part in parts.values():
            del part.step
    return {
        f"{name}_ms": round(median(one.elapsed_time(other) for one, other in pairs), 3)
        for name, pairs in marks.items()
    }


def _encoder_ms(model: NemoStreamingModel, batch: int, device: torch.device) -> float:
    """Times the encoder alone, recorded where a GPU has it."""
    encoder = model._encoder
    from asr_service.model.batch import Batch

    plan = model._plan
    rows = Batch(
        slots=torch.arange(batch, device=device),
        steps=torch.full((batch,), 100, device=device),
        masks=None,
        frames=torch.full((batch,), plan.chunk_frames, device=device),
        any_young=False,
    )
    mel = torch.randn(batch, plan.chunk_mels, model._features.mels, device=device)
    recorder = CudaRecorder(device) if device.type == "cuda" else EagerRecorder()
    with torch.inference_mode():
        return device_ms(device, recorder.record(lambda: encoder.step(rows, mel)), 0.3)


def step_operations(shape: Shape, frames: int, left: int = LOOK_AHEAD[0]) -> float:
    """Returns the floating-point operations of a stream's step in the encoder: two for each multiplication."""
    width, keys = shape.d_model, left + frames
    # Two feed-forwards of four times the width; queries, keys, values and output; convolution in and out; taps.
    layer = frames * width * (16 * width + 4 * width + 3 * width + shape.kernel)
    # Scores by content and by position, and the mix of values.
    layer += frames * width * (2 * keys + left + 2 * frames - 1)
    products, bands, mels = 0, shape.mels, frames * shape.subsampling
    for stage in range(shape.subsampling.bit_length() - 1):
        bands, mels = bands // 2 + 1, mels // 2
        products += mels * bands * shape.channels * (9 + (shape.channels if stage else 0))
    products += frames * bands * shape.channels * width
    return 2.0 * (shape.layers * layer + products)

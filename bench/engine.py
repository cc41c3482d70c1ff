"""Measures the encoder step against NeMo's own, and how many real-time streams a whole step sustains.

    python -m bench.engine --quick --json build/engine.json

Every row is measured in one run on the same cores, on a random-weight model with NVIDIA's 114M shape:

- `step_ms`: this project's encoder step, mel frames in, encoder frames out, caches in their pools.
- `nemo_step_ms`: NeMo's `cache_aware_stream_step` on the same mel frames, its caches kept as one batch (its best case:
  nothing is gathered or scattered), measured in turn with the other. It is the baseline, in fp32 as NeMo ships it.
- `speedup`: the ratio of the two. `whole_ms`: features, encoder and RNN-T decoding together.
- `realtime_streams`: batch x chunk duration / `whole_ms`: streams that a machine doing nothing else keeps up with at
  this batch size.

Medians over alternating runs of both sides. Caches are full, as after the first seconds of a stream.

With `--device cuda:0` everything runs there, waits for the device before a clock is read, and tells besides the largest
batch whose whole step stays under the chunk's duration in 99 of 100 steps (`--largest` for a CPU too).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from asr_service.core.model import OutOfMemory, StepRequest
from asr_service.core.model_settings import ModelSettings, parse_att_context
from asr_service.model import loading
from asr_service.model.batch import Batch
from asr_service.model.devices import choose_device
from asr_service.model.reading import ModelParts, read_model
from asr_service.model.reference.nemo_model import read_nemo
from asr_service.model.streaming import NemoStreamingModel
from bench.kept import random_model
from bench.options import write_report
from testbed.models import babble

LARGEST = (64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    look_ahead: str
    batch: int
    precision: str
    step_ms: float
    nemo_step_ms: float
    speedup: float
    whole_ms: float
    realtime_streams: float


@dataclass(frozen=True)
class Largest:
    """The largest batch that keeps up; 0 if none does.

    Attributes:
        limit: why not more: "time", "memory" or "not tried".
        p99_ms: of its whole steps; `chunk_ms` is what they may take.
        state_mb: memory of all its streams' state.
    """

    look_ahead: str
    precision: str
    batch: int
    p99_ms: float
    chunk_ms: float
    state_mb: float
    limit: str


def _nemo_step(encoder: Any, batch: int, mel: torch.Tensor) -> Callable[[], object]:
    """Makes NeMo's step in the steady state, as a function to be timed."""
    channel, last_time, length = encoder.get_initial_cache_state(batch_size=batch, device=mel.device)
    config = encoder.streaming_cfg
    past = config.pre_encode_cache_size
    signal = (
        torch.cat([mel[:, : past[1] if isinstance(past, list) else past], mel], dim=1)
        .transpose(1, 2)
        .contiguous()
    )
    caches = [channel.normal_(), last_time.normal_(), length.fill_(config.last_channel_cache_size)]
    frames = torch.full((batch,), signal.shape[2], device=mel.device)

    def step() -> object:
        with torch.inference_mode():
            out = encoder.cache_aware_stream_step(
                processed_signal=signal, processed_signal_length=frames, cache_last_channel=caches[0],
                cache_last_time=caches[1], cache_last_channel_len=caches[2], keep_all_outputs=False,
            )  # fmt: skip
        caches[:] = out[2:5]
        return out

    return step


def _own_step(model: NemoStreamingModel, batch: int, mel: torch.Tensor) -> Callable[[], object]:
    """Makes this project's step in the steady state, with streams of mixed ages."""
    slots = torch.arange(batch, device=mel.device)
    steps = slots * 7 + 2 * model._encoder.ring_chunks
    frames = [model.info.chunk_frames] * batch

    def step() -> object:
        steps.add_(1)
        with torch.inference_mode():
            return model._encoder.step(Batch(slots, steps, None, frames, False), mel)

    return step


def _whole_step(model: NemoStreamingModel, batch: int) -> Callable[[], object]:
    """Makes a step of features, encoder and decoding of `batch` streams, each at another place of the same babble."""
    info = model.info
    audio = np.concatenate([babble(20.0, 1)] * 2)
    position = [0]

    def step() -> object:
        first = position[0] == 0
        need = info.first_chunk_samples if first else info.chunk_samples
        begin = position[0] % (len(audio) // 2)
        requests = [
            StepRequest(slot, audio[place : place + need], first, False)
            for slot, place in ((s, (begin + 1731 * s) % (len(audio) // 2)) for s in range(batch))
        ]
        position[0] += need
        return model.step(requests)

    for _ in range(3):
        step()
    return step


def _timed(step: Callable[[], object], device: torch.device) -> float:
    """Times one call in milliseconds, the device's work included."""
    begun = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - begun)


def _medians(steps: Sequence[Callable[[], object]], budget_s: float, device: torch.device) -> list[float]:
    """Times each function in turn for about so long, 5 rounds at least after two that do not count; median ms."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        _timed(step, device)
        _timed(step, device)
    began = time.perf_counter()
    while len(times[0]) < 5 or time.perf_counter() - began < budget_s:
        for step, list_ in zip(steps, times, strict=True):
            list_.append(_timed(step, device))
    return [statistics.median(t) for t in times]


def measure(
    nemo_model: Any, parts: ModelParts, look_aheads: Sequence[str], batches: Sequence[int],
    precisions: Sequence[str], budget_s: float, device: torch.device, show: Callable[[Row], None],
) -> list[Row]:  # fmt: skip
    """Measures all combinations on a model that NeMo has read; `show` gets each row as it is done."""
    rows = []
    for look_ahead in look_aheads:
        models = {}
        for precision in precisions:
            settings = ModelSettings("large", parse_att_context(look_ahead), precision=precision)
            models[precision] = loading.assemble(parts, settings, device, max(batches))
        for batch in batches:
            info = models[precisions[0]].info
            mel = torch.randn(batch, 8 * info.chunk_frames, 80, device=device)
            nemo_model.encoder.set_default_att_context_size(list(info.att_context))
            nemo = _nemo_step(nemo_model.encoder, batch, mel)
            for precision, model in models.items():
                if device.type == "cuda":
                    # TF32 is a switch of the whole process: on while this step is recorded, off for NeMo's.
                    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
                    _own_step(model, batch, mel)()
                    torch.backends.cuda.matmul.allow_tf32 = False
                nemo_ms, own_ms, whole_ms = _medians(
                    (nemo, _own_step(model, batch, mel), _whole_step(model, batch)), budget_s, device
                )
                row = Row(
                    look_ahead, batch, precision, round(own_ms, 2), round(nemo_ms, 2), round(nemo_ms / own_ms, 2),
                    round(whole_ms, 2), round(batch * info.chunk_ms / whole_ms, 1),
                )  # fmt: skip
                rows.append(row)
                show(row)
    return rows


def largest(parts: ModelParts, look_ahead: str, precision: str, device: torch.device, steps: int) -> Largest:
    """Tries growing batches until one is too slow or does not fit."""
    best = Largest(look_ahead, precision, 0, 0.0, 0.0, 0.0, "not tried")
    for batch in LARGEST:
        try:
            model = loading.assemble(
                parts,
                ModelSettings(name="large", att_context=parse_att_context(look_ahead), precision=precision),
                device,
                batch,
            )
            step = _whole_step(model, batch)
            times = [_timed(step, device) for _ in range(steps)]
        except (torch.OutOfMemoryError, OutOfMemory):
            return replace(best, limit="memory")
        p99, chunk_ms = float(np.percentile(times, 99)), model.info.chunk_ms
        if p99 >= chunk_ms:
            return replace(best, limit="time")
        state = batch * model.state_bytes() / 2**20
        best = Largest(look_ahead, precision, batch, round(p99, 1), chunk_ms, round(state), "not tried")
        del model, step
    return best


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two look-aheads, two batches, a second each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the rows")
    parser.add_argument("--look-ahead", action="append", metavar="L,R", help="only these (may be repeated)")
    parser.add_argument(
        "--batch", action="append", type=int, metavar="N", help="only these (may be repeated)"
    )
    parser.add_argument("--precision", action="append", choices=["fp32", "tf32", "bf16"], help="only these")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda:N")
    parser.add_argument("--largest", action="store_true", help="largest batch that keeps up, on a CPU too")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    look_aheads = options.look_ahead or (
        ["70,1", "70,0"] if options.quick else ["70,13", "70,6", "70,1", "70,0"]
    )
    batches = options.batch or ([1, 32] if options.quick else [1, 16, 32, 64, 128])
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    machine = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} CPU threads"
    precisions = options.precision or (["fp32", "tf32", "bf16"] if on_gpu else ["fp32", "bf16"])
    path = random_model("large")
    nemo_model, parts = read_nemo(path, device, "the baseline"), read_model(str(path), device)
    console = Console()
    columns = list(Row.__dataclass_fields__)
    console.print(" ".join(f"{c:>16}" for c in columns))

    def show(row: Row) -> None:
        console.print(" ".join(f"{v!s:>16}" for v in asdict(row).values()))

    rows = measure(
        nemo_model, parts, look_aheads, batches, precisions, 1.0 if options.quick else 4.0, device, show
    )
    table = Table(title=f"Encoder step, 114M random-weight model, {machine}")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(str(v) for v in asdict(row).values()))
    console.print(table)
    most = []
    if on_gpu or options.largest:
        for look_ahead in look_aheads:
            for precision in precisions:
                most.append(largest(parts, look_ahead, precision, device, 50 if options.quick else 200))
                console.print(most[-1])
    cpu = Path("/proc/cpuinfo")
    report = {
        "baseline": "NeMo cache_aware_stream_step, fp32, same run",
        "device": machine,
        "threads": torch.get_num_threads(),
        "amx": "amx_bf16" in cpu.read_text() if cpu.exists() else None,
        "rows": [asdict(row) for row in rows],
        "largest": [asdict(one) for one in most],
    }
    write_report(options.json, report)


if __name__ == "__main__":
    main()

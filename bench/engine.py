"""Measures the encoder step against NeMo's own, and how many real-time streams a whole step sustains.

    python -m bench.engine --quick --json build/engine.json

Every row is measured in one run on the same cores, on models with random weights of NVIDIA's 114M and 0.6B shapes:

- `step_ms`: this project's encoder step, mel frames in, encoder frames out, caches in their pools.
- `nemo_step_ms`: NeMo's `cache_aware_stream_step` on the same mel frames, its caches kept as one batch (its best case:
  nothing is gathered or scattered), measured in turn with the other. It is the baseline, in fp32 as NeMo ships it.
  Without NeMo (the extra nemo) there is no baseline, and no ratio.
- `speedup`: the ratio of the two. `whole_ms`: features, encoder, prompts and decoding together.
- `prompts_percent`: of `whole_ms`, what language prompts take, for a model that has them.
- `stream_mb`: memory of a stream's state.
- `realtime_streams`: batch x chunk duration / `whole_ms`: streams that a machine doing nothing else keeps up with at
  this batch size.

Medians over alternating runs of all sides. Caches are full, as after the first seconds of a stream.

With `--device cuda:0` everything runs there, waits for the device before a clock is read, and tells besides the largest
batch whose whole step stays under the chunk's duration in 99 of 100 steps (`--largest` for a CPU too). The 0.6B model
takes 12 GB of memory, and minutes to be made once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from asr_service.core.errors import ModelError, SettingsError
from asr_service.core.model import OutOfMemory
from asr_service.core.model_settings import ModelSettings, parse_att_context
from asr_service.model import loading, precision
from asr_service.model.devices import choose_device, cpu_has_bf16
from asr_service.model.reading import read_model
from asr_service.model.reference.nemo_model import read_nemo
from bench.engine_steps import medians, nemo_step, own_step, prompt_step, timed, whole_step
from bench.kept import random_model
from bench.options import write_report
from testbed.shapes import SHAPES

LOOK_AHEADS = {"large": ("70,13", "70,6", "70,1", "70,0"), "0.6b": ("70,1", "56,3")}
"""What is measured of each shape if nothing is said."""
BATCHES = {"large": (1, 16, 32, 64, 128), "0.6b": (1, 8, 16)}
QUICK_LOOK_AHEADS = {"large": ("70,1", "70,0"), "0.6b": ("70,1", "56,3")}
LARGEST = (64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    model: str
    look_ahead: str
    batch: int
    precision: str
    step_ms: float
    nemo_step_ms: float | None
    speedup: float | None
    whole_ms: float
    prompts_percent: float | None
    stream_mb: float
    realtime_streams: float


@dataclass(frozen=True)
class Largest:
    """The largest batch that keeps up; 0 if none does.

    Attributes:
        limit: why not more: "time", "memory" or "not tried".
        p99_ms: of its whole steps; `chunk_ms` is what they may take.
        state_mb: memory of all its streams' state.
    """

    model: str
    look_ahead: str
    precision: str
    batch: int
    p99_ms: float
    chunk_ms: float
    state_mb: float
    limit: str


@dataclass(frozen=True)
class Runs:
    """What is measured of a model.

    Attributes:
        model: a shape of `testbed.shapes`.
        look_aheads, batches, precisions: all combinations of these.
        budget_s: seconds that each combination is measured for, at least.
    """

    model: str
    look_aheads: Sequence[str]
    batches: Sequence[int]
    precisions: Sequence[str]
    budget_s: float


def measure(runs: Runs, device: torch.device, show: Callable[[Row], None]) -> list[Row]:
    """Measures a model; `show` gets each row as it is done."""
    path = random_model(runs.model)
    parts, nemo = read_model(str(path), device), _baseline(path, device)
    rows = []
    for look_ahead in runs.look_aheads:
        for name in runs.precisions:
            settings = ModelSettings(runs.model, parse_att_context(look_ahead), precision=name)
            model = loading.assemble(parts, settings, device, max(runs.batches))
            info = model.info
            if nemo:
                nemo.encoder.set_default_att_context_size(list(info.att_context))
            for batch in runs.batches:
                mel = torch.randn(
                    batch, 8 * info.chunk_frames, parts.architecture.features.mels, device=device
                )
                if device.type == "cuda":
                    # TF32 is a switch of the whole process: on while this step is recorded, off for NeMo's.
                    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
                    own_step(model, batch, mel)()
                    torch.backends.cuda.matmul.allow_tf32 = False
                prompts = prompt_step(model, batch)
                steps = {"own": own_step(model, batch, mel), "whole": whole_step(model, batch)}
                if nemo:
                    steps["nemo"] = nemo_step(nemo.encoder, batch, mel)
                if prompts:
                    steps["prompts"] = prompts
                ms = dict(zip(steps, medians(list(steps.values()), runs.budget_s, device), strict=True))
                own_ms, whole_ms = ms["own"], ms["whole"]
                row = Row(
                    model=runs.model,
                    look_ahead=look_ahead,
                    batch=batch,
                    precision=name,
                    step_ms=round(own_ms, 2),
                    nemo_step_ms=round(ms["nemo"], 2) if nemo else None,
                    speedup=round(ms["nemo"] / own_ms, 2) if nemo else None,
                    whole_ms=round(whole_ms, 2),
                    prompts_percent=round(100 * ms["prompts"] / whole_ms, 2) if prompts else None,
                    stream_mb=round(model.state_bytes() / 2**20, 2),
                    realtime_streams=round(batch * info.chunk_ms / whole_ms, 1),
                )
                rows.append(row)
                show(row)
    return rows


def _baseline(path: Path, device: torch.device) -> Any:
    """Reads the model that NeMo steps for comparison; None where NeMo is not installed."""
    try:
        return read_nemo(path, device, "there is no baseline")
    except SettingsError as error:
        if isinstance(error, ModelError):
            raise
        print(error.message, file=sys.stderr)
        return None


def largest(name: str, look_ahead: str, precision: str, device: torch.device, steps: int) -> Largest:
    """Tries growing batches until one is too slow or does not fit."""
    best = Largest(name, look_ahead, precision, 0, 0.0, 0.0, 0.0, "not tried")
    settings = ModelSettings(name, parse_att_context(look_ahead), precision=precision)
    parts = read_model(str(random_model(name)), device)
    for batch in LARGEST:
        try:
            model = loading.assemble(parts, settings, device, batch)
            step = whole_step(model, batch)
            times = [timed(step, device) for _ in range(steps)]
        except (torch.OutOfMemoryError, OutOfMemory):
            return replace(best, limit="memory")
        p99, chunk_ms = float(np.percentile(times, 99)), model.info.chunk_ms
        if p99 >= chunk_ms:
            return replace(best, limit="time")
        state = batch * model.state_bytes() / 2**20
        best = Largest(name, look_ahead, precision, batch, round(p99, 1), chunk_ms, round(state), "not tried")
        del model, step
    return best


def offered(model: str) -> list[str]:
    """Returns the look-aheads that a shape offers, as the setting has them."""
    return [f"{left},{right}" for left, right in SHAPES[model].look_aheads]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="the 114M shape, two look-aheads, two batches, a second each"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the rows")
    parser.add_argument("--model", action="append", choices=sorted(LOOK_AHEADS), help="only these")
    parser.add_argument(
        "--look-ahead", action="append", metavar="L,R", help="only these, where a model has them"
    )
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
    models = options.model or (["large"] if options.quick else ["large", "0.6b"])
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    machine = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} CPU threads"
    wanted = options.precision or (["fp32", "tf32", "bf16"] if on_gpu else ["fp32", "bf16"])
    left_out = {
        name: why
        for name in wanted
        if (why := precision.why_unsupported(name, device.type, cpu_has_bf16=cpu_has_bf16()))
    }
    precisions = [name for name in wanted if name not in left_out]
    console = Console()
    for name, why in left_out.items():
        console.print(f"{name} is not measured here: {why}")
    columns = list(Row.__dataclass_fields__)
    console.print(" ".join(f"{c:>16}" for c in columns))

    def show(row: Row) -> None:
        console.print(" ".join(f"{v!s:>16}" for v in asdict(row).values()))

    rows, most = [], []
    for name in models:
        runs = Runs(
            model=name,
            look_aheads=[one for one in options.look_ahead if one in offered(name)]
            if options.look_ahead
            else (QUICK_LOOK_AHEADS if options.quick else LOOK_AHEADS)[name],
            batches=options.batch or ([1, 32] if options.quick else BATCHES[name]),
            precisions=precisions,
            budget_s=1.0 if options.quick else 4.0,
        )
        rows += measure(runs, device, show)
        if on_gpu or options.largest:
            for look_ahead in runs.look_aheads:
                for one in precisions:
                    most.append(largest(name, look_ahead, one, device, 50 if options.quick else 200))
                    console.print(most[-1])
    table = Table(title=f"Encoder step, random-weight models, {machine}")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*("" if v is None else str(v) for v in asdict(row).values()))
    console.print(table)
    cpu = Path("/proc/cpuinfo")
    report = {
        "baseline": "NeMo cache_aware_stream_step, fp32, same run",
        "device": machine,
        "threads": torch.get_num_threads(),
        "amx": "amx_bf16" in cpu.read_text() if cpu.exists() else None,
        "not_measured": left_out,
        "rows": [asdict(row) for row in rows],
        "largest": [asdict(one) for one in most],
    }
    write_report(options.json, report)


if __name__ == "__main__":
    main()

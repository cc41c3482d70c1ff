"""Times work on a device: by its own clock where it has one, and counts what a step launches and waits for."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch


def device_ms(device: torch.device, work: Callable[[], object], budget_s: float, least: int = 5) -> float:
    """Returns the median duration of some work on a device, ms, with work queued behind work where that is possible."""
    for _ in range(3):
        work()
    if device.type == "cpu":
        times: list[float] = []
        ends_at = time.perf_counter() + budget_s
        while len(times) < least or time.perf_counter() < ends_at:
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return 1000 * median(times)
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    count = max(least, min(200, int(budget_s / max(1e-6, time.perf_counter() - began))))
    marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize(device)
    return float(median(before.elapsed_time(after) for before, after in pairwise(marks)))


def profile(work: Callable[[], object], repeats: int, device: torch.device) -> dict[str, Any]:
    """Returns what a piece of work does on a device, by torch's profiler: means of so many repeats.

    Returns:
        `busy_ms` of the device, `kernels`, calls to launch something (`launches`), copies, calls that wait (`waits`),
        and `longest`: the names of kernels with their ms and how often they run.
    """
    from torch.profiler import ProfilerActivity

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(repeats):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    ran: Counter[str] = Counter()
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in events:
        category, name = event.get("cat", ""), event.get("name", "")
        if category in ("kernel", "gpu_memcpy", "gpu_memset"):
            ran[name] += 1
            times[name] += event.get("dur", 0.0)
        elif category in ("cuda_runtime", "cuda_driver", "cpu_op"):
            calls[name] += 1

    def named(*parts: str) -> float:
        found = sum(count for name, count in calls.items() if any(part in name for part in parts))
        return round(found / repeats, 1)

    return {
        "busy_ms": round(sum(times.values()) / 1000 / repeats, 3),
        "kernels": round(sum(ran.values()) / repeats, 1),
        "launches": named("LaunchKernel", "GraphLaunch"),
        "copies": named("cudaMemcpy"),
        # The profiler itself waits once at its end.
        "waits": named("StreamSynchronize", "DeviceSynchronize", "EventSynchronize"),
        "operations": round(
            sum(count for name, count in calls.items() if name.startswith("aten::")) / repeats
        ),
        "longest": [
            {
                "name": name[:110],
                "ms": round(time_us / 1000 / repeats, 4),
                "times": round(ran[name] / repeats, 1),
            }
            for name, time_us in times.most_common(24)
        ],
    }

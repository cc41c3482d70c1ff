"""The whole service on a device, front ends and all: how many paced streams over gRPC it sustains, and how late it is.

It needs the service's packages, grpcio first of all: where one is missing, the section says which, and is not run.
Streams send packets of 100 ms in real time and ask for finals on the way. Generators are processes of their own, and
take cores of the same machine. A level is sustained if all streams end well and the 99th percentile of interims, after
the packet that completes their chunk, is below the duration of a chunk and does not grow.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
import wave
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import asr_service
from bench.gpu import Section, model_file
from bench.gpu_search import most_carried

PACKET_MS = 100.0
FINALIZE_EVERY_S = 2.5
CHUNK_MS = 160.0
# Share of real time by which latencies may grow in a try, and what they wander anyhow, ms.
_SHORT, _WANDER_MS = 0.01, 40.0
# A core feeds so many streams with such packets, about.
_STREAMS_A_GENERATOR = 2000
_RAMP_S = 1.0


@dataclass(frozen=True)
class Extent:
    """What is measured.

    Attributes:
        model: as ASR_MODEL has it; None for the 114M shape with random weights.
        settings: of the service.
        first: streams of the first try.
        seconds: of a try.
        tries: at most.
    """

    model: str | None
    settings: dict[str, object]
    first: int
    seconds: float
    tries: int = 20


FULL = Extent(None, {"ASR_PRECISION": "bf16", "ASR_MAX_STREAMS": 8192, "ASR_MAX_BATCH": 1024}, 1000, 6.0)
QUICK = Extent("demo", {"ASR_MAX_STREAMS": 256, "ASR_MAX_BATCH": 64}, 16, 4.0, 3)


def measure(section: Section, extent: Extent | None = None) -> None:
    """Finds how many streams are sustained, in the time there is."""
    missing = missing_package()
    if missing:
        section.row(
            "not measured",
            what="the whole service",
            why=f"{missing} is not installed; make setup installs it",
        )
        return
    extent = extent or (QUICK if section.quick else FULL)
    from testbed.processes import AsrService

    cpus = len(os.sched_getaffinity(0))
    generators = max(1, min(8, cpus // 5))
    settings: dict[str, object] = {
        "ASR_DEVICE": section.device,
        "ASR_ATT_CTX": "70,1",
        "ASR_FRONT_ENDS": max(1, cpus - generators - 1),
        "ASR_LOG_LEVEL": "info",
    } | extent.settings
    began = time.monotonic()
    model = extent.model or str(model_file(section.out_folder, section.left_s))
    made = time.monotonic()
    with AsrService(model, **settings) as service:
        before = service.metrics()
        section.row(
            "service", model=extent.model or "114M, random weights", model_file_s=round(made - began, 1),
            start_s=round(time.monotonic() - made, 1), generators=generators, packet_ms=PACKET_MS,
            recorded_sizes=_value(before, "asr_recorded_batch_sizes"),
            slots=_value(before, 'asr_slots{state="free"}'),
            **{name.lower(): value for name, value in settings.items()},
        )  # fmt: skip
        if extent.model is None:
            from testbed.babble import babble

            pcm = (babble(20.0, 0) * 32767).astype("<i2").tobytes()
        else:
            pcm = _clips()
        with ProcessPoolExecutor(generators, mp_context=get_context("spawn")) as pool:
            _search(section, extent, Generators(pool, generators, service.target, pcm))
        after = service.metrics()
        steps = _value(after, 'asr_steps_total{outcome="ok"}') - _value(
            before, 'asr_steps_total{outcome="ok"}'
        )
        audio_s = _value(after, "asr_audio_seconds_total") - _value(before, "asr_audio_seconds_total")
        section.row("steps of the service", steps=steps, mean_batch=round(audio_s / 0.16 / max(1, steps), 1))


class Generators:
    """Processes that run paced streams.

    Args:
        pool: of them.
        count: how many there are.
        target: HOST:PORT of the service.
        pcm: what streams send, 16-bit mono at 16 kHz.
    """

    def __init__(self, pool: ProcessPoolExecutor, count: int, target: str, pcm: bytes) -> None:
        self._pool, self._count, self._target, self._pcm = pool, count, target, pcm

    def run(self, streams: int, seconds: float) -> dict[str, Any]:
        """Runs so many streams; returns the report of `clients.loadgen` on all of them together."""
        from clients.loadgen.plan import Heard, Plan
        from clients.loadgen.report import summarize

        # Few streams come from few processes, so that one is not alone in its own.
        count = max(1, min(self._count, -(-streams // (_STREAMS_A_GENERATOR // 8))))
        parts = [streams // count + (number < streams % count) for number in range(count)]
        began = time.monotonic()
        runs = [self._pool.submit(_run, self._target, self._pcm, part, seconds) for part in parts]
        heard: list[Heard] = [one for run in runs for one in run.result()]
        plan = Plan.of(self._pcm, PACKET_MS, seconds, finalize_every_s=FINALIZE_EVERY_S)
        return summarize(heard, plan, time.monotonic() - began, CHUNK_MS / 1000)


def _run(target: str, pcm: bytes, streams: int, seconds: float) -> list[Any]:
    """Runs streams in a generator's process."""
    from clients.loadgen.plan import Plan
    from testbed import grpc_frames

    plan = Plan.of(pcm, PACKET_MS, seconds, finalize_every_s=FINALIZE_EVERY_S)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        # The system spreads connections over front ends.
        connections = max(4, min(64, streams // 16))
        return runner.run(grpc_frames.run_streams(target, plan, streams, _RAMP_S, connections))


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _search(section: Section, extent: Extent, generators: Generators) -> None:
    generators.run(2, 1.0)
    tries, cost_s = 0, 0.0

    def carry(level: int) -> bool:
        nonlocal tries, cost_s
        began = time.monotonic()
        report = generators.run(level, extent.seconds)
        tries, cost_s = tries + 1, time.monotonic() - began
        keeps_up = is_sustained(report, extent.seconds)
        section.row("try", **figures(report), keeps_up=keeps_up)
        return keeps_up

    most = int(str(extent.settings["ASR_MAX_STREAMS"]))
    low, high = most_carried(
        carry, extent.first, most, lambda: tries < extent.tries and section.left_s > 1.3 * cost_s
    )
    section.row("streams sustained", streams=low, not_sustained=high if high <= most else "no more slots")


def is_sustained(report: dict[str, Any], seconds: float) -> bool:
    """Tells whether all streams of a try ended well, with interims in time that did not come later and later."""
    latency, grown = report["interim_latency_ms"], report["interim_growth_ms"]
    if set(report["outcomes"]) != {"ok"} or not latency or grown is None:
        return False
    return bool(latency["p99"] <= CHUNK_MS and grown <= max(_WANDER_MS, 1000 * _SHORT * seconds / 2))


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """Takes a report's figures for a table."""
    row: dict[str, Any] = {"streams": report["streams"]}
    for kind, name in (("interim", "interim_latency_ms"), ("final", "final_latency_ms")):
        row |= {f"{kind}_{q}_ms": report[name].get(q) for q in ("p50", "p95", "p99")}
    row |= {"grown_ms": report["interim_growth_ms"], "sent_late_p99_ms": report["sent_late_ms"].get("p99")}
    return row | {"outcomes": ",".join(f"{count} {name}" for name, count in report["outcomes"].items())}


def missing_package() -> str:
    """Returns the name of a package that the service needs and that is not installed; "" if all are."""
    try:
        importlib.import_module("asr_service.app.front_end")
        importlib.import_module("asr_service.app.metrics_process")
        importlib.import_module("testbed.grpc_frames")
        importlib.import_module("clients.loadgen.report")
    except ModuleNotFoundError as error:
        return error.name or str(error)
    return ""


def _clips() -> bytes:
    """Joins the clips that the repository carries, 16-bit mono at 16 kHz."""
    found = b""
    for clip in sorted((Path(asr_service.__file__).parent / "assets/clips").glob("*.wav")):
        with wave.open(str(clip)) as file:
            found += file.readframes(file.getnframes())
    return found


def _value(metrics: dict[str, float], name: str) -> int:
    """Returns a metric, whatever other labels it has; 0 if it is not there."""
    plain, _, labels = name.partition("{")
    wanted = labels.rstrip("}")
    return int(
        sum(
            value
            for key, value in metrics.items()
            if key.partition("{")[0] == plain and wanted in key.partition("{")[2]
        )
    )

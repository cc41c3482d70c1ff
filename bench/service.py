"""Measures the service as a whole against named baselines in the same run.

    python -m bench.service [--quick] [--json service.json]

- `cpu_us_per_packet`: CPU time of the server process per 20 ms packet, 100 streams, a model that does nothing; the
  baseline is a bare grpc.aio server that echoes the same packets.
- `efficiency`: streams sustained in real time over gRPC with the 114M model (random weights: a step costs what the
  real one costs), divided by what the bare batched step sustains on the same cores (`efficiency.py`). Sustained, in
  half of the tries: at the end the interims of every stream come within half a second, and on the way they did not come
  later and later.
- `loop_lag_p99_ms`: how late the server's event loop wakes up while it sustains those.
- `latency_ms`: at half of what the machine sustains with the demo model, from the packet that completes a chunk to its
  interim, and from finalize or half-close to the final. What it sustains: the streams of the bare step, or those whose
  packets fill one core (Python handles one at a time), whichever are fewer.

Two things spoil the figures: other work on the cores, and fewer streams than a step's granularity can show.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import uvloop
from rich.console import Console
from rich.table import Table

from bench.efficiency import (
    LIMIT_S,
    PACKET_MS,
    TARGET,
    bare_step,
    efficiency,
    plan_of,
    unbounded,
)
from bench.kept import random_model
from bench.options import write_report
from clients.loadgen.plan import RATE, Heard, Plan, noise
from clients.loadgen.report import percentiles, summarize
from clients.loadgen.streams import METHOD, GrpcRunner, run_streams
from clients.wav import read_wav
from testbed import grpc_frames as frames
from testbed.processes import ROOT, AsrService, Server, histogram_percentile

STREAMS = 100
"""Of the transport measurement."""
PACKET_US = 60.0
"""CPU time of a packet where it is not measured: the target."""
DEMO = ROOT / "asr_service/assets/demo.nemo"

console = Console(stderr=True)


class EchoRunner(GrpcRunner):
    """Runs streams against the echo server: what comes back is read and thrown away."""

    def __init__(self, target: str, plan: Plan) -> None:
        super().__init__(target, plan)
        self._calls = [channel.stream_stream(METHOD) for channel in self._channels]

    @staticmethod
    async def _read(call: Any, heard: Heard, plan: Plan) -> None:
        async for _ in call:
            pass


class Measured(Protocol):
    """Whose CPU time is measured."""

    @property
    def target(self) -> str:
        """HOST:PORT to connect to."""
        ...

    def cpu_s(self) -> float:
        """See `Server.cpu_s`."""
        ...

    def idle_cpu(self, seconds: float) -> float:
        """See `Server.idle_cpu`."""
        ...


def run_to_end(make: Callable[[], GrpcRunner], plan: Plan, streams: int, ramp_s: float = 1.0) -> list[Heard]:
    """Runs so many streams to their end."""

    async def run() -> list[Heard]:
        runner = make()
        await runner.connect(10)
        try:
            return await run_streams(runner, plan, streams, ramp_s, lambda _: None)
        finally:
            await runner.close()

    return asyncio.run(run())


# ------------------------------------------------------------------------------------------------------------ transport


def packet_cost(server: Measured, runner: type[GrpcRunner], seconds: float) -> float:
    """Measures the CPU time per packet in microseconds, idle time taken off."""
    plan = plan_of(noise(), seconds)
    run_to_end(
        lambda: runner(server.target, plan), plan_of(noise(), 1.0), 10
    )  # connections, caches, allocator
    idle = server.idle_cpu(1.0)
    before, began = server.cpu_s(), time.monotonic()
    heard = run_to_end(lambda: runner(server.target, plan), plan, STREAMS)
    spent = server.cpu_s() - before - idle * (time.monotonic() - began)
    if any(one.outcome != "ok" for one in heard):
        raise RuntimeError(f"streams failed: {next(one for one in heard if one.outcome != 'ok').detail}")
    return 1e6 * spent / sum(len(one.sent) for one in heard)


def transport(rounds: int, seconds: float) -> dict[str, Any]:
    """Measures the service with the null model and the bare echo in turns, so that both meet the same machine."""
    ours: list[float] = []
    echo: list[float] = []
    with AsrService("null", ASR_LOG_LEVEL="info") as service, Server("-m", "bench.echo_server") as bare:
        for number in range(rounds):
            echo.append(packet_cost(bare, EchoRunner, seconds))
            ours.append(packet_cost(service, GrpcRunner, seconds))
            console.print(
                f"  round {number + 1}: service {ours[-1]:.1f} us per packet, bare echo {echo[-1]:.1f} us"
            )
    return {
        "cpu_us_per_packet": round(statistics.median(ours), 1),
        "echo_us_per_packet": round(statistics.median(echo), 1),
        "ratio_to_echo": round(statistics.median(a / b for a, b in zip(ours, echo, strict=True)), 3),
        "rounds": {"service": [round(one, 1) for one in ours], "echo": [round(one, 1) for one in echo]},
        "streams": STREAMS,
    }


# -------------------------------------------------------------------------------------------------------------- latency


def latency(seconds: float, bare_seconds: float, slots: int, packet_us: float) -> dict[str, Any]:
    """Measures latencies with the demo model at half of what step and packets allow, with finals on the way."""
    clips = sorted((ROOT / "asr_service/assets/clips").glob("*.wav"))
    named = DEMO.exists()
    model = str(DEMO) if named else str(random_model("tiny"))
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "clips.wav"
        pcm = b"".join(read_wav(clip, RATE) for clip in clips) or noise()
        soundfile.write(wav, np.frombuffer(pcm, "<i2"), RATE)
        bare = unbounded(lambda count: bare_step(model, wav, bare_seconds, count), slots)
        slots = bare["streams"] + 2
        packets = int(1e6 / packet_us * PACKET_MS / 1000)
        streams = max(1, min(bare["streams"], packets) // 2)
        console.print(
            f"  bare step: {bare['streams']} streams; packets fill a core at {packets}; half of the fewer: {streams}"
        )
        plan = plan_of(pcm, seconds, finalize_every_s=2.5)
        with AsrService(model, ASR_MAX_STREAMS=slots, ASR_MAX_BATCH=slots) as service:
            uvloop.run(frames.run_streams(service.target, plan_of(pcm, 2.0), 2, ramp_s=0.5))
            before = service.metrics()
            heard = uvloop.run(frames.run_streams(service.target, plan, streams, ramp_s=2.0))
            after = service.metrics()
    report = summarize(heard, plan, seconds, LIMIT_S)
    lag = 1000 * histogram_percentile(before, after, "asr_event_loop_lag_seconds", 0.99)
    return {
        "latency_ms": {"interim": report["interim_latency_ms"], "final": report["final_latency_ms"]},
        "model": "demo" if named else "tiny random weights (the demo model is not there)",
        "streams": streams,
        "bare_streams": bare["streams"],
        "packet_streams": packets,
        "outcomes": report["outcomes"],
        "loop_lag_p99_ms": round(lag, 2),
        "sent_late_ms": percentiles([late for one in heard for late in one.late]),
    }


# ----------------------------------------------------------------------------------------------------------- the report


def show(result: dict[str, Any]) -> None:
    """Prints the figures as a table."""
    table = Table(title="Service")
    for column, justify in (("", "left"), ("figure", "right"), ("baseline, target", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    if "transport" in result:
        one = result["transport"]
        table.add_row(
            f"CPU per 20 ms packet, {one['streams']} streams, us",
            f"{one['cpu_us_per_packet']:.1f}",
            f"bare grpc.aio echo {one['echo_us_per_packet']:.1f} in the same run; at most 60",
        )
    if "path" in result:
        one = result["path"]
        table.add_row(
            "efficiency, 114M model at [70,1]",
            f"{one['efficiency']}",
            f"half of the tries keep up at {one['service_streams']} streams over gRPC, and at {one['bare_streams']} of "
            f"the bare step; at least {TARGET}",
        )
        table.add_row("event loop's lag meanwhile, p99, ms", f"{result['loop_lag_p99_ms']}", "")
    if "live" in result:
        one = result["live"]
        for kind, title in (("interim", "chunk's last sample to interim"), ("final", "finalize to final")):
            ms = one["latency_ms"][kind]
            figures = ", ".join(f"{ms[name]:.0f}" for name in ("p50", "p95", "p99")) if ms else "-"
            table.add_row(f"{title}, p50 p95 p99, ms", figures, f"{one['model']}, {one['streams']} streams")
    Console().print(table)


def missing(result: dict[str, Any]) -> list[str]:
    """Lists what a run should have found and did not."""
    found = []
    if "path" in result:
        if result["path"]["bare_streams"] == 0:
            found.append("the bare step of one stream takes longer than its audio: no efficiency")
        elif result["path"]["efficiency"] is None:
            found.append("all tries of one side went the same way: no efficiency")
    if "live" in result and not all(result["latency_ms"].values()):
        found.append("no interims or no finals: no latencies")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 1 if something was not found."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.service",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="shorter runs: about seven minutes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--only", choices=("transport", "path", "live"), action="append", help="some parts (all of them)"
    )
    parser.add_argument(
        "--slots",
        type=int,
        default=80,
        help="slots that the 114M model's bare step is tried with first, doubled while it fills them; four times as "
        "many with the demo model (%(default)s)",
    )
    parser.add_argument("--tries", type=int, help="of the efficiency that count (20; 10 if --quick)")
    args = parser.parse_args(argv)
    parts = args.only or ["transport", "path", "live"]
    quick = args.quick
    # Written after each part: a run that is broken off has its first ones.
    result: dict[str, Any] = {}
    if "transport" in parts:
        console.print("transport: null model against bare echo")
        result["transport"] = transport(2 if quick else 5, 4.0 if quick else 8.0)
        result["cpu_us_per_packet"] = result["transport"]["cpu_us_per_packet"]
        write_report(args.json, result)
    if "path" in parts:
        console.print("efficiency: the full path against the bare step, 114M model")
        result["path"] = efficiency(
            args.tries or (10 if quick else 20), 8.0 if quick else 16.0, 2.0 if quick else 4.0, args.slots
        )
        result["efficiency"] = result["path"]["efficiency"]
        result["loop_lag_p99_ms"] = result["path"]["loop_lag_ms"].get("p99")
        write_report(args.json, result)
    if "live" in parts:
        console.print("latency: demo model at half load")
        packet_us = result.get("cpu_us_per_packet", PACKET_US)
        result["live"] = latency(8.0 if quick else 20.0, 1.0 if quick else 3.0, 4 * args.slots, packet_us)
        result["latency_ms"] = result["live"]["latency_ms"]
        write_report(args.json, result)
    show(result)
    problems = missing(result)
    for problem in problems:
        console.print(problem, style="red")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""The service as a whole, against named baselines in the same run.

    python -m bench.service [--quick] [--json service.json]

- `cpu_us_per_packet`: CPU time of the server process per 20 ms packet, 100 streams, a model that does nothing; the
  baseline is a bare grpc.aio server that echoes the same packets.
- `efficiency`: streams sustained in real time over gRPC with the 114M model (random weights: a step costs what the
  real one costs), divided by what the bare batched step sustains on the same cores. Sustained: at the end the interims
  of every stream come within half a second, and on the way they did not come later and later.
- `loop_lag_p99_ms`: how late the server's event loop wakes up while it sustains those.
- `latency_ms`: at half of what the machine sustains with the demo model, from the packet that completes a chunk to its
  interim, and from finalize or half-close to the final. What it sustains: the streams of the bare step, or those whose
  packets fill one core (Python handles one at a time), whichever are fewer.

Two things spoil the figures: other work on the cores, and fewer streams than a step's granularity can show.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from bench import frames
from bench.kept import made_once
from bench.models import babble
from bench.processes import ROOT, AsrService, Server, environment, histogram_percentile
from clients.load import noise
from clients.load_report import percentiles, summarize
from clients.load_streams import METHOD, RATE, GrpcRunner, Heard, Plan, run_streams
from clients.wav import load_wav

PACKET_MS = 20.0
STREAMS = 100
"""Of the transport measurement."""
LIMIT_S = 0.5
"""Latency up to which a stream counts as sustained: three chunks."""
SHORT = 0.01
"""Share of real time by which the streams may fall behind; the bare step has to fit exactly ..."""
WANDER_S = 0.08
"""... but latency may wander by half a chunk, as it does with how chunks meet in steps: 2 % in a run of 8 s."""
MOST_SLOTS = 4096
PACKET_US = 60.0
"""CPU time of a packet where it is not measured: the target."""
DEMO = ROOT / "asr_service/assets/demo.nemo"
CACHE = ROOT / "build"

console = Console(stderr=True)


class EchoRunner(GrpcRunner):
    """The load generator against the echo server: what comes back is read and thrown away."""

    def __init__(self, target: str, plan: Plan) -> None:
        super().__init__(target, plan)
        self._calls = [channel.stream_stream(METHOD) for channel in self._channels]

    @staticmethod
    async def _read(call: Any, heard: Heard, asked: list[float], plan: Plan) -> None:
        async for _ in call:
            pass


def plan_of(pcm: bytes, seconds: float, finalize_every_s: float = 0.0) -> Plan:
    """Streams that send this audio round and round."""
    return Plan.of(pcm, PACKET_MS, seconds, finalize_every_s=finalize_every_s)


def load(make: Callable[[], GrpcRunner], plan: Plan, streams: int, ramp_s: float = 1.0) -> list[Heard]:
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


def packet_cost(server: Server, runner: type[GrpcRunner], seconds: float) -> float:
    """CPU time per packet in microseconds, idle time taken off."""
    plan = plan_of(noise(), seconds)
    load(lambda: runner(server.target, plan), plan_of(noise(), 1.0), 10)  # connections, caches, allocator
    idle = server.idle_cpu(1.0)
    before, began = server.cpu_s(), time.monotonic()
    heard = load(lambda: runner(server.target, plan), plan, STREAMS)
    spent = server.cpu_s() - before - idle * (time.monotonic() - began)
    if any(one.outcome != "ok" for one in heard):
        raise RuntimeError(f"streams failed: {next(one for one in heard if one.outcome != 'ok').detail}")
    return 1e6 * spent / sum(len(one.sent) for one in heard)


def transport(rounds: int, seconds: float) -> dict[str, Any]:
    """Service with the null model and bare echo, in turns, so that both meet the same machine."""
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


# ----------------------------------------------------------------------------------------------------------- efficiency


def large_model(path: Path) -> None:
    """The 114M shape with random weights."""
    console.print("  making the 114M model (once)")
    subprocess.run(
        [sys.executable, "-m", "bench.models", "large", str(path)], cwd=ROOT, env=environment(), check=True
    )


def bare_step(model: str, wav: Path, seconds: float, slots: int) -> dict[str, Any]:
    """What `bench.bare_step` found, in a process of its own."""
    argv = ["-m", "bench.bare_step", "--model", model, "--wav", str(wav), "--seconds", str(seconds)]
    done = subprocess.run(
        [sys.executable, *argv, "--slots", str(slots)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def unbounded(measure: Callable[[int], dict[str, Any]], slots: int) -> dict[str, Any]:
    """What is measured with so many slots, or with twice as many, and so on, until slots are not what bounds it.

    Raises:
        RuntimeError: `MOST_SLOTS` still do.
    """
    while slots <= MOST_SLOTS:
        found = measure(slots)
        if found["streams"] < slots:
            return found
        console.print(f"  all {slots} slots are sustained: measured again with twice as many")
        slots *= 2
    raise RuntimeError(f"more than {MOST_SLOTS} streams: raise MOST_SLOTS")


def keeps_up(report: dict[str, Any], seconds: float) -> bool:
    """Whether a load report is of streams that all ended well, within the limit, and did not fall behind on the way."""
    grown = report["interim_growth_ms"]
    allowed_s = max(
        WANDER_S, SHORT * seconds / 2
    )  # the quarters that are compared are half of the time apart
    return bool(report["sustained"] == report["streams"] and grown is not None and grown <= 1000 * allowed_s)


def sustained_streams(
    service: AsrService, plan: Plan, expected: int
) -> tuple[int, dict[str, float], list[dict[str, Any]]]:
    """The most streams that all keep real time, near `expected`; the loop's lag meanwhile, and each try."""
    tries: list[dict[str, Any]] = []
    lag: dict[str, float] = {}

    def holds(streams: int) -> bool:
        before = service.metrics()
        began = time.monotonic()
        heard = asyncio.run(frames.run_streams(service.target, plan, streams, ramp_s=0.5))
        report = summarize(heard, plan, time.monotonic() - began, LIMIT_S)
        ok = keeps_up(report, plan.seconds)
        keys = (
            "sustained",
            "outcomes",
            "interim_latency_ms",
            "interim_growth_ms",
            "final_latency_ms",
            "sent_late_ms",
        )
        tries.append({"streams": streams, "keeps_up": ok} | {key: report[key] for key in keys})
        p95 = report["interim_latency_ms"].get("p95", float("nan"))
        console.print(
            f"  {streams} streams: {report['sustained']} sustained, interim p95 {p95:.0f} ms, grown by "
            f"{report['interim_growth_ms']} ms, {report['outcomes']}: {'kept up' if ok else 'fell behind'}"
        )
        if ok:
            after = service.metrics()
            name = "asr_event_loop_lag_seconds"
            lag.update(
                {
                    f"p{q}": round(1000 * histogram_percentile(before, after, name, q / 100), 2)
                    for q in (50, 95, 99)
                }
            )
        return ok

    def holds_at_last(streams: int) -> bool:
        """Tried twice before the answer is no: what else the machine does is not the service's doing."""
        return holds(streams) or holds(streams)

    by = max(1, round(0.03 * expected))
    streams = max(1, round(0.9 * expected))
    if holds_at_last(streams):
        while holds_at_last(streams + by):
            streams += by
        return streams, lag, tries
    while streams > by:
        streams -= by
        if holds_at_last(streams):
            return streams, lag, tries
    return 0, lag, tries


def efficiency(seconds: float, bare_seconds: float, slots: int) -> dict[str, Any]:
    """The full path against the bare step, with the 114M model at [70,1]."""
    model = made_once(CACHE / "large.nemo", large_model)
    wav = made_once(CACHE / "babble.wav", lambda path: soundfile.write(path, babble(20.0, 0), RATE))
    bare = unbounded(lambda count: bare_step(str(model), wav, bare_seconds, count), slots)
    console.print(f"  bare step: {bare['streams']} streams; ms by batch: {bare['step_ms']}")
    slots = 2 * bare["streams"] + 2  # more than it can sustain: only time says no
    plan = plan_of(load_wav(wav, RATE), seconds)
    with AsrService(str(model), ASR_MAX_STREAMS=slots, ASR_MAX_BATCH=slots, ASR_LOG_LEVEL="info") as service:
        asyncio.run(frames.run_streams(service.target, plan_of(load_wav(wav, RATE), 2.0), 2, ramp_s=0.5))
        streams, lag, tries = sustained_streams(service, plan, bare["streams"])
    # A step of n streams that takes less than a chunk leaves room that whole streams cannot show.
    return {
        "efficiency": round(streams / bare["streams"], 3) if bare["streams"] else None,
        "service_streams": streams,
        "bare_streams": bare["streams"],
        "bare_step_ms": bare["step_ms"],
        "loop_lag_ms": lag,
        "tries": tries,
    }


# -------------------------------------------------------------------------------------------------------------- latency


def latency(seconds: float, bare_seconds: float, slots: int, packet_us: float) -> dict[str, Any]:
    """Latencies with the demo model at half of what step and packets allow, finals asked for on the way."""
    clips = sorted((ROOT / "asr_service/assets/clips").glob("*.wav"))
    named = DEMO.exists()
    model = str(DEMO) if named else str(made_once(CACHE / "tiny.nemo", tiny_model))
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "clips.wav"
        pcm = b"".join(load_wav(clip, RATE) for clip in clips) or noise()
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
            asyncio.run(frames.run_streams(service.target, plan_of(pcm, 2.0), 2, ramp_s=0.5))
            before = service.metrics()
            heard = asyncio.run(frames.run_streams(service.target, plan, streams, ramp_s=2.0))
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


def tiny_model(path: Path) -> None:
    """A small model with random weights, where the demo model is not there."""
    subprocess.run(
        [sys.executable, "-m", "bench.models", "tiny", str(path)], cwd=ROOT, env=environment(), check=True
    )


# ----------------------------------------------------------------------------------------------------------- the report


def show(result: dict[str, Any]) -> None:
    """The figures as a table."""
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
            f"{one['service_streams']} streams over gRPC, bare step {one['bare_streams']}; at least 0.85",
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
    """What a run should have found and did not."""
    found = []
    if "path" in result:
        if not result["path"]["bare_streams"]:
            found.append("the bare step of one stream takes longer than its audio: no efficiency")
        elif not result["path"]["service_streams"] or not result["path"]["loop_lag_ms"]:
            found.append("no number of streams kept up: no efficiency, and no lag of the event loop")
    if "live" in result and not all(result["latency_ms"].values()):
        found.append("no interims or no finals: no latencies")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit code 1 if something was not found."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.service",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="shorter runs: about four minutes")
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
    args = parser.parse_args(argv)
    parts = args.only or ["transport", "path", "live"]
    quick = args.quick
    result: dict[str, Any] = {}
    if "transport" in parts:
        console.print("transport: null model against bare echo")
        result["transport"] = transport(2 if quick else 5, 4.0 if quick else 8.0)
        result["cpu_us_per_packet"] = result["transport"]["cpu_us_per_packet"]
    if "path" in parts:
        console.print("efficiency: the full path against the bare step, 114M model")
        result["path"] = efficiency(8.0 if quick else 20.0, 1.5 if quick else 5.0, args.slots)
        result["efficiency"] = result["path"]["efficiency"]
        result["loop_lag_p99_ms"] = result["path"]["loop_lag_ms"].get("p99")
    if "live" in parts:
        console.print("latency: demo model at half load")
        packet_us = result.get("cpu_us_per_packet", PACKET_US)
        result["live"] = latency(8.0 if quick else 20.0, 1.0 if quick else 3.0, 4 * args.slots, packet_us)
        result["latency_ms"] = result["live"]["latency_ms"]
    show(result)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    problems = missing(result)
    for problem in problems:
        console.print(problem, style="red")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

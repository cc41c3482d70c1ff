"""How many streams the whole service sustains, as a share of what the bare batched step sustains on the same cores.

One round is the service between two measurements of the bare step, whose mean it is compared with: machines drift, and
by more within minutes than what is looked for. The figure is the median of the rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import soundfile
import uvloop
from rich.console import Console

from bench import frames
from bench.kept import made_once
from bench.models import babble
from bench.processes import ROOT, AsrService, environment, histogram_percentile
from clients.load_report import summarize
from clients.load_streams import RATE, Plan
from clients.wav import load_wav

PACKET_MS = 20.0
LIMIT_S = 0.5
"""Latency up to which a stream counts as sustained: three chunks."""
SHORT = 0.01
"""Share of real time by which the streams may fall behind; the bare step has to fit exactly ..."""
WANDER_S = 0.08
"""... but latency may wander by half a chunk, as it does with how chunks meet in steps: 2 % in a run of 8 s."""
MOST_SLOTS = 4096
CACHE = ROOT / "build"

console = Console(stderr=True)


def plan_of(pcm: bytes, seconds: float, finalize_every_s: float = 0.0) -> Plan:
    """Streams that send this audio round and round."""
    return Plan.of(pcm, PACKET_MS, seconds, finalize_every_s=finalize_every_s)


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
    # The quarters that are compared are half of the time apart.
    allowed_s = max(WANDER_S, SHORT * seconds / 2)
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
        heard = uvloop.run(frames.run_streams(service.target, plan, streams, ramp_s=0.5))
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


def efficiency(rounds: int, seconds: float, bare_seconds: float, slots: int) -> dict[str, Any]:
    """The full path against the bare step, with the 114M model at [70,1].

    Args:
        rounds: of which the median counts.
        seconds: that each number of streams is held for.
        bare_seconds: for each batch size of the bare step.
        slots: that the bare step is tried with first.
    """
    model = made_once(CACHE / "large.nemo", large_model)
    wav = made_once(CACHE / "babble.wav", lambda path: soundfile.write(path, babble(20.0, 0), RATE))

    def bare() -> dict[str, Any]:
        found = unbounded(lambda count: bare_step(str(model), wav, bare_seconds, count), slots)
        console.print(f"  bare step: {found['streams']} streams; ms by batch: {found['step_ms']}")
        return found

    baseline, served = [bare()], []
    for number in range(rounds if baseline[0]["streams"] else 0):
        console.print(f"  round {number + 1} of {rounds}")
        served.append(sustained(str(model), wav, seconds, baseline[-1]["streams"]))
        baseline.append(bare())
    return figures(served, baseline)


def figures(served: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the rounds say together: the service's, and the bare steps before, between and after them."""
    ratios = shares([one["streams"] for one in served], [one["streams"] for one in baseline])
    median_on = sorted(zip(ratios, served, strict=False), key=lambda pair: pair[0])[len(ratios) // 2 :]
    return {
        "efficiency": round(statistics.median(ratios), 3) if ratios else None,
        "rounds": [round(ratio, 3) for ratio in ratios],
        "service_streams": [one["streams"] for one in served],
        "bare_streams": [one["streams"] for one in baseline],
        "loop_lag_ms": median_on[0][1]["loop_lag_ms"] if median_on else {},
        "bare_step_ms": [one["step_ms"] for one in baseline],
        "tries": [one["tries"] for one in served],
    }


def shares(served: Sequence[int], baseline: Sequence[int]) -> list[float]:
    """Each round's streams as a share of the mean of the bare steps before and after it; nothing if one found none."""
    if not all(baseline):
        return []
    return [
        streams / statistics.mean(around) for streams, around in zip(served, pairwise(baseline), strict=True)
    ]


def sustained(model: str, wav: Path, seconds: float, expected: int) -> dict[str, Any]:
    """What the service sustains over gRPC, near what is expected of it."""
    slots = 2 * expected + 2  # more than it can sustain: only time says no
    plan = plan_of(load_wav(wav, RATE), seconds)
    with AsrService(model, ASR_MAX_STREAMS=slots, ASR_MAX_BATCH=slots, ASR_LOG_LEVEL="info") as service:
        uvloop.run(frames.run_streams(service.target, plan_of(load_wav(wav, RATE), 2.0), 2, ramp_s=0.5))
        streams, lag, tries = sustained_streams(service, plan, expected)
    return {"streams": streams, "loop_lag_ms": lag, "tries": tries}

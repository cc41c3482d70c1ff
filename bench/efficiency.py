"""How many streams the whole service sustains, as a share of what the bare batched step sustains on the same cores.

Machines drift, and by more within a minute than what is looked for. So the service is tried for a few seconds at a
time, each try between two short measurements of the bare step, and what a try means is its share of their mean. The
share goes up after a try that kept up and down after one that did not (`up_and_down.py`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import soundfile
import uvloop
from rich.console import Console

from bench import frames
from bench.kept import made_once
from bench.models import babble
from bench.processes import ROOT, AsrService, environment, histogram_percentile
from bench.up_and_down import UpAndDown
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
TARGET = 0.85
"""The share that tries begin with."""
STEP = 0.03
MOST_TRIES = 3
"""Times as many tries as are to count, at most."""
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


class BareStep:
    """`bench.bare_step` in a process of its own that measures when asked to; a context manager."""

    def __init__(self, model: str, wav: Path, slots: int) -> None:
        argv = [
            "-m",
            "bench.bare_step",
            "--model",
            model,
            "--wav",
            str(wav),
            "--slots",
            str(slots),
            "--follow",
        ]
        self._process = subprocess.Popen(
            [sys.executable, *argv],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def streams(self, near: float, seconds: float) -> float:
        """How many streams the bare step would sustain now; `near` is about as many.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{near} {seconds}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the bare step's process has ended")
        return float(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


@dataclass
class Setup:
    """What is measured against what."""

    service: AsrService
    bare: BareStep
    plan: Plan
    bare_seconds: float

    def measure(self, expected: float, tries: int) -> dict[str, Any]:
        """So many tries after the first turn; `expected` streams of the bare step."""
        search = UpAndDown(TARGET, STEP)
        found: list[dict[str, Any]] = []
        before = self.bare.streams(expected, self.bare_seconds)
        while len(search.tried[search.settled]) < tries and len(found) < MOST_TRIES * tries:
            streams = round(search.level * before)
            if streams < 1:
                break
            one = self._try(streams)
            after = self.bare.streams(before, self.bare_seconds)
            bare = (before + after) / 2
            search.took(streams / bare, one["keeps_up"])
            found.append({"share": round(streams / bare, 3), "bare": round(bare, 1)} | one)
            console.print(
                f"  {streams} streams of {before:.1f} before and {after:.1f} after, {streams / bare:.3f}: interim p95 "
                f"{one['interim_latency_ms'].get('p95', float('nan')):.0f} ms, grown by {one['interim_growth_ms']} ms, "
                f"{one['outcomes']}: {'kept up' if one['keeps_up'] else 'fell behind'}"
            )
            before = after
        return figures(found, search)

    def _try(self, streams: int) -> dict[str, Any]:
        before = self.service.metrics()
        began = time.monotonic()
        heard = uvloop.run(frames.run_streams(self.service.target, self.plan, streams, ramp_s=0.5))
        report = summarize(heard, self.plan, time.monotonic() - began, LIMIT_S)
        after = self.service.metrics()
        name = "asr_event_loop_lag_seconds"
        lag = {
            f"p{q}": round(1000 * histogram_percentile(before, after, name, q / 100), 2) for q in (50, 95, 99)
        }
        keys = (
            "sustained",
            "outcomes",
            "interim_latency_ms",
            "interim_growth_ms",
            "final_latency_ms",
            "sent_late_ms",
        )
        said = {key: report[key] for key in keys}
        return {
            "streams": streams,
            "keeps_up": keeps_up(report, self.plan.seconds),
            "loop_lag_ms": lag,
        } | said


def efficiency(tries: int, seconds: float, bare_seconds: float, slots: int) -> dict[str, Any]:
    """The full path against the bare step, with the 114M model at [70,1].

    Args:
        tries: of the service that count.
        seconds: that each number of streams is held for.
        bare_seconds: of the bare step between two tries.
        slots: that the bare step is tried with first.
    """
    model = made_once(CACHE / "large.nemo", large_model)
    wav = made_once(CACHE / "babble.wav", lambda path: soundfile.write(path, babble(20.0, 0), RATE))
    first = unbounded(lambda count: bare_step(str(model), wav, bare_seconds, count), slots)
    console.print(f"  bare step: {first['streams']} streams; ms by batch: {first['step_ms']}")
    if not first["streams"]:
        return figures([], UpAndDown(TARGET, STEP)) | {"bare_streams": 0}
    slots = 2 * first["streams"] + 2  # more than can be sustained: only time says no
    plan = plan_of(load_wav(wav, RATE), seconds)
    with (
        BareStep(str(model), wav, slots) as bare,
        AsrService(str(model), ASR_MAX_STREAMS=slots, ASR_MAX_BATCH=slots, ASR_LOG_LEVEL="info") as service,
    ):
        uvloop.run(frames.run_streams(service.target, plan_of(load_wav(wav, RATE), 2.0), 2, ramp_s=0.5))
        return Setup(service, bare, plan, bare_seconds).measure(first["streams"], tries)


def figures(found: Sequence[dict[str, Any]], search: UpAndDown) -> dict[str, Any]:
    """What the tries say together; the event loop's lag is of those that kept up."""
    counted = found[search.settled]
    lags = [one["loop_lag_ms"] for one in counted if one["keeps_up"]]
    share = search.estimate
    return {
        "efficiency": None if share is None else round(share, 3),
        "shares_from_to": [min(one["share"] for one in counted), max(one["share"] for one in counted)]
        if counted
        else [],
        "service_streams": round(statistics.mean(one["streams"] for one in counted), 1) if counted else 0,
        "bare_streams": round(statistics.mean(one["bare"] for one in counted), 1) if counted else None,
        "loop_lag_ms": {name: statistics.median(lag[name] for lag in lags) for name in lags[0]}
        if lags
        else {},
        "tries": list(found),
    }

"""Measures how many streams the service sustains, as a share of what the bare step sustains on the same cores.

Machines drift, and by more within a minute than what is looked for. So both are tried in turns, a few seconds at a
time: the service with paced clients, the bare step with a batch whose chunks come in real time. One measure judges
both, and each goes up after a try that kept up and down after one that did not (`up_and_down.py`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import soundfile
import uvloop
from rich.console import Console

from bench.kept import BUILD, made_once, random_model
from bench.up_and_down import UpAndDown
from clients.loadgen.plan import RATE, Heard, Plan
from clients.loadgen.report import growth, percentiles, summarize
from clients.wav import read_wav
from testbed import grpc_frames as frames
from testbed.models import babble
from testbed.processes import ROOT, AsrService, clean_environment, histogram_percentile

PACKET_MS = 20.0
LIMIT_S = 0.5
"""Latency up to which a stream counts as sustained: three chunks."""
SHORT = 0.01
"""Share of real time by which the streams may fall behind ..."""
WANDER_S = 0.08
"""... and latency may wander by half a chunk, as it does with how chunks meet in steps: 2 % in a run of 8 s."""
TARGET = 0.85
"""The share that the service begins with."""
STEP = 0.03
MOST_TRIES = 3
"""Times as many tries as are to count, at most."""
MOST_SLOTS = 4096

console = Console(stderr=True)


def plan_of(pcm: bytes, seconds: float, finalize_every_s: float = 0.0) -> Plan:
    """Plans streams that send this audio round and round."""
    return Plan.of(pcm, PACKET_MS, seconds, finalize_every_s=finalize_every_s)


def bare_step(model: str, wav: Path, seconds: float, slots: int) -> dict[str, Any]:
    """Runs `bench.bare_step` in a process of its own; returns what it found."""
    argv = ["-m", "bench.bare_step", "--model", model, "--wav", str(wav), "--seconds", str(seconds)]
    done = subprocess.run(
        [sys.executable, *argv, "--slots", str(slots)],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def unbounded(measure: Callable[[int], dict[str, Any]], slots: int) -> dict[str, Any]:
    """Measures with so many slots, with twice as many, and so on, until slots are not what bounds the figure.

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
    """Tells whether streams all ended well, within the limit, and did not fall behind on the way."""
    grown = report["interim_growth_ms"]
    # The quarters that are compared are half of the time apart.
    allowed_s = max(WANDER_S, SHORT * seconds / 2)
    return bool(report["sustained"] == report["streams"] and grown is not None and grown <= 1000 * allowed_s)


class BareStep:
    """Runs `bench.bare_step` in a process of its own that measures when asked to; a context manager."""

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
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def late(self, streams: int, seconds: float) -> Heard:
        """Steps so many streams in real time; returns when steps ended and how late.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{streams} {seconds}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the bare step's process has ended")
        return Heard(outcome="ok", interims=[(at, late) for at, late in json.loads(answer)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def try_bare(bare: BareStep, plan: Plan, streams: int) -> dict[str, Any]:
    """Tries the bare step with so many streams."""
    heard = bare.late(streams, plan.seconds)
    grown = growth([heard], plan)
    report = {
        "streams": streams,
        "sustained": streams if heard.interims[-1][1] <= LIMIT_S else 0,
        "interim_latency_ms": percentiles([late for _, late in heard.interims]),
        "interim_growth_ms": None if grown is None else round(1000 * grown, 2),
    }
    return report | {"keeps_up": keeps_up(report, plan.seconds)}


def try_service(service: AsrService, plan: Plan, streams: int) -> dict[str, Any]:
    """Tries the service with so many streams, and reads the lag of its event loop meanwhile."""
    before = service.metrics()
    began = time.monotonic()
    heard = uvloop.run(frames.run_streams(service.target, plan, streams, ramp_s=0.5))
    report = summarize(heard, plan, time.monotonic() - began, LIMIT_S)
    after = service.metrics()
    name = "asr_event_loop_lag_seconds"
    lag = {f"p{q}": round(1000 * histogram_percentile(before, after, name, q / 100), 2) for q in (50, 95, 99)}
    keys = ("streams", "sustained", "outcomes", "interim_latency_ms", "interim_growth_ms", "sent_late_ms")
    said = {key: report[key] for key in keys} | {"loop_lag_ms": lag}
    return said | {"keeps_up": keeps_up(report, plan.seconds)}


def in_turns(
    bare: Callable[[int], dict[str, Any]],
    service: Callable[[int], dict[str, Any]],
    expected: float,
    tries: int,
) -> dict[str, Any]:
    """Tries both in turns until so many tries of each count, near `expected` streams of the bare step."""
    sides = (
        Side("bare step", bare, UpAndDown(expected, STEP)),
        Side("service", service, UpAndDown(TARGET * expected, STEP)),
    )
    while any(len(side.counted) < tries and len(side.tries) < MOST_TRIES * tries for side in sides):
        for side in sides:
            side.go()
    return figures(*sides)


@dataclass
class Side:
    """The bare step or the service, and its tries."""

    name: str
    attempt: Callable[[int], dict[str, Any]]
    search: UpAndDown
    tries: list[dict[str, Any]] = field(default_factory=list)

    def go(self) -> None:
        """Makes one try."""
        streams = max(1, round(self.search.level))
        one = self.attempt(streams)
        self.search.took(streams, one["keeps_up"])
        self.tries.append(one)
        latency = one["interim_latency_ms"].get("p95", float("nan"))
        console.print(
            f"  {self.name}, {streams} streams: p95 {latency:.0f} ms, grown by {one['interim_growth_ms']} ms: "
            f"{'kept up' if one['keeps_up'] else 'fell behind'}"
        )

    @property
    def counted(self) -> list[dict[str, Any]]:
        """The tries that count."""
        return self.tries[self.search.settled]


def efficiency(tries: int, seconds: float, bare_seconds: float, slots: int) -> dict[str, Any]:
    """Measures the full path against the bare step, with the 114M model at [70,1].

    Args:
        tries: of each that count.
        seconds: of a try.
        bare_seconds: of each batch size of the bare step, to find where to begin.
        slots: that the bare step is tried with first.
    """
    model = random_model("large")
    wav = made_once(BUILD / "babble.wav", lambda path: soundfile.write(path, babble(20.0, 0), RATE))
    first = unbounded(lambda count: bare_step(str(model), wav, bare_seconds, count), slots)
    console.print(f"  bare step: {first['streams']} streams; ms by batch: {first['step_ms']}")
    if not first["streams"]:
        return {"efficiency": None, "service_streams": None, "bare_streams": 0, "loop_lag_ms": {}}
    slots = 2 * first["streams"] + 2  # more than can be sustained: only time says no
    plan = plan_of(read_wav(wav, RATE), seconds)
    with (
        BareStep(str(model), wav, slots) as bare,
        AsrService(str(model), ASR_MAX_STREAMS=slots, ASR_MAX_BATCH=slots, ASR_LOG_LEVEL="info") as service,
    ):
        uvloop.run(frames.run_streams(service.target, plan_of(read_wav(wav, RATE), 2.0), 2, ramp_s=0.5))
        return in_turns(
            partial(try_bare, bare, plan), partial(try_service, service, plan), first["streams"], tries
        )


def figures(bare: Side, service: Side) -> dict[str, Any]:
    """Sums up the tries; the event loop's lag is of those that kept up."""
    alone, served = bare.search.estimate, service.search.estimate
    lags = [one["loop_lag_ms"] for one in service.counted if one["keeps_up"]]
    return {
        "efficiency": None if not alone or not served else round(served / alone, 3),
        "service_streams": None if served is None else round(served, 1),
        "bare_streams": None if alone is None else round(alone, 1),
        "loop_lag_ms": {name: round(statistics.median(lag[name] for lag in lags), 2) for name in lags[0]}
        if lags
        else {},
        "service_tries": service.tries,
        "bare_tries": bare.tries,
    }

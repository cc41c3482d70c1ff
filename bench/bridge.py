"""Measures what a packet over the WebSocket bridge costs the bridge and the service together.

    python -m bench.bridge [--quick] [--json bridge.json]

CPU time of both for a packet of 20 ms, a model that does nothing, idle time taken off: with packets joined to one
message a chunk, and, as the baseline of the same run, passed on one by one (`gap_ms` in `init` asks for that). In
turns, medians.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.efficiency import plan_of
from bench.options import write_report
from clients.loadgen.plan import Heard, noise
from clients.loadgen.streams import WebSocketRunner, run_streams
from testbed.processes import AsrService, Server

STREAMS = 60
ROUNDS, QUICK_ROUNDS = 5, 2
SECONDS, QUICK_SECONDS = 10.0, 4.0
WAYS: dict[str, dict[str, object]] = {"joined": {}, "one by one": {"gap_ms": 10_000}}
"""By name, what a client says in `init` for it."""
TARGET = 0.5

console = Console(stderr=True)


class Bridge(Server):
    """The bridge under measurement."""

    says = r"listening\b.*\bport\W+(\d+)"

    def __init__(self, target: str) -> None:
        super().__init__(
            "-m", "ws_bridge", ASR_HOST="127.0.0.1", ASR_PORT=0, ASR_GRPC_TARGET=target, ASR_DRAIN_S=1
        )


def packet_us(service: AsrService, bridge: Bridge, init: dict[str, object], seconds: float) -> float:
    """Measures the CPU time of both for a packet, in microseconds."""

    def run(seconds: float, streams: int) -> list[Heard]:
        plan = plan_of(noise(), seconds)
        runner = WebSocketRunner(f"ws://127.0.0.1:{bridge.target}", init=init)
        return asyncio.run(run_streams(runner, plan, streams, 1.0, lambda _: None))

    def spent() -> float:
        return service.cpu_s() + bridge.cpu_s()

    # Connections, caches, allocator.
    run(1.0, 10)
    before, began = spent(), time.monotonic()
    time.sleep(1.0)
    idle = (spent() - before) / (time.monotonic() - began)
    before, began = spent(), time.monotonic()
    heard = run(seconds, STREAMS)
    used = spent() - before - idle * (time.monotonic() - began)
    if failed := [one for one in heard if one.outcome != "ok"]:
        raise RuntimeError(f"streams failed: {failed[0].outcome} {failed[0].detail}")
    return 1e6 * used / sum(len(one.sent) for one in heard)


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Measures both ways in turns, so that both meet the same machine."""
    costs: dict[str, list[float]] = {name: [] for name in WAYS}
    with AsrService("null") as service, Bridge(service.target) as bridge:
        for number in range(rounds):
            for name, init in WAYS.items():
                costs[name].append(packet_us(service, bridge, init, seconds))
            console.print(
                f"  round {number + 1}: " + ", ".join(f"{name} {us[-1]:.1f} us" for name, us in costs.items())
            )
    ratios = [one / other for one, other in zip(costs["joined"], costs["one by one"], strict=True)]
    return {
        "streams": STREAMS,
        "seconds": seconds,
        "cpu_us_per_packet": {name: round(statistics.median(us), 1) for name, us in costs.items()},
        "ratio": round(statistics.median(ratios), 3),
        "rounds": {name: [round(one, 1) for one in us] for name, us in costs.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} short rounds of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args(arguments)
    quick = options.quick
    figures = measure(QUICK_ROUNDS if quick else ROUNDS, QUICK_SECONDS if quick else SECONDS)
    table = Table(
        "packets", "CPU us a packet, bridge and service", title=f"{STREAMS} streams, packets of 20 ms"
    )
    for name, us in figures["cpu_us_per_packet"].items():
        table.add_row(name, f"{us:.1f}")
    table.add_row("joined over one by one", f"{figures['ratio']:.2f} (aim: {TARGET})")
    Console().print(table)
    write_report(options.json, figures)


if __name__ == "__main__":
    main()

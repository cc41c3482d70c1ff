"""Measures what the host's Python costs: front ends per packet, the engine's loop per stream and step.

    python -m bench.host [--quick] [--json host.json]

- `front_end`: CPU time of the front end's process per 20 ms packet, all of recognition included, with 100 streams and a
  model that does nothing; the baseline is a bare grpc.aio server that echoes the same packets, in turns with it.
- `front_ends`: CPU time of all front ends per packet with four of them over that with one, for the same streams; and
  how many streams two of them carry over one, worked out of that time where each has as many streams as the one.
- `engine`: CPU time of the engine's process for a stream's step, beside the model's step, at several sizes.

CPU time of processes is compared, not the clock, since the load generator needs cores too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.efficiency import plan_of
from bench.engine_loop import measure_loop
from bench.options import write_report
from bench.service import STREAMS, EchoRunner, packet_cost, run_to_end
from clients.loadgen.plan import noise
from clients.loadgen.streams import GrpcRunner
from testbed.processes import AsrService, Server, children_by_name, cpu_s_of

console = Console(stderr=True)
CONNECTIONS = 40
"""Enough of them for the system to spread over four front ends."""


class FrontEnds:
    """The front ends of a service: what they spend, as `packet_cost` asks for it."""

    def __init__(self, service: AsrService) -> None:
        self.target = service.target
        self._pids = [pid for name, pid in children_by_name(service.pid).items() if "front" in name]

    def cpu_s(self) -> float:
        """Sums the CPU time so far of the front ends."""
        return sum(map(cpu_s_of, self._pids))

    def idle_cpu(self, seconds: float) -> float:
        """Measures the CPU seconds per second while nobody asks anything of them."""
        before, began = self.cpu_s(), time.monotonic()
        time.sleep(seconds)
        return (self.cpu_s() - before) / (time.monotonic() - began)


def measure_front_end(rounds: int, seconds: float) -> dict[str, Any]:
    """Compares one front end with the bare echo."""
    ours: list[float] = []
    echo: list[float] = []
    with AsrService("null", ASR_FRONT_ENDS=1) as service, Server("-m", "bench.echo_server") as bare:
        for number in range(rounds):
            echo.append(packet_cost(bare, EchoRunner, seconds))
            ours.append(packet_cost(FrontEnds(service), GrpcRunner, seconds))
            console.print(
                f"  round {number + 1}: front end {ours[-1]:.1f} us a packet, echo {echo[-1]:.1f} us"
            )
    return {
        "us_per_packet": round(statistics.median(ours), 1),
        "echo_us_per_packet": round(statistics.median(echo), 1),
        "ratio_to_echo": round(statistics.median(a / b for a, b in zip(ours, echo, strict=True)), 3),
        "streams": STREAMS,
    }


def measure_front_ends(rounds: int, seconds: float) -> dict[str, Any]:
    """Compares several front ends with one, for the same streams."""
    # By the number of front ends and of streams.
    spent: dict[tuple[int, int], list[float]] = {(1, STREAMS): [], (2, 2 * STREAMS): [], (4, STREAMS): []}
    plan = plan_of(noise(), seconds)
    for number in range(rounds):
        for (count, streams), found in spent.items():
            with AsrService("null", ASR_FRONT_ENDS=count, ASR_MAX_STREAMS=4 * STREAMS) as service:
                ends = FrontEnds(service)

                def make() -> GrpcRunner:
                    return GrpcRunner(service.target, plan, channels=CONNECTIONS)

                run_to_end(make, plan_of(noise(), 1.0), 10)
                idle = ends.idle_cpu(1.0)
                before, began = ends.cpu_s(), time.monotonic()
                heard = run_to_end(make, plan, streams)
                used = ends.cpu_s() - before - idle * (time.monotonic() - began)
                found.append(1e6 * used / sum(len(one.sent) for one in heard))
        told = ", ".join(
            f"{count} with {streams}: {found[-1]:.1f}" for (count, streams), found in spent.items()
        )
        console.print(f"  round {number + 1}: us a packet, front ends with streams {told}")

    def over_one(count: int, streams: int) -> float:
        one = spent[1, STREAMS]
        return statistics.median(a / b for a, b in zip(spent[count, streams], one, strict=True))

    return {
        "us_per_packet": {
            f"{count} with {streams}": round(statistics.median(found), 1)
            for (count, streams), found in spent.items()
        },
        "four_over_one": round(over_one(4, STREAMS), 3),
        "two_carry_over_one": round(2 / over_one(2, 2 * STREAMS), 3),
        "connections": CONNECTIONS,
    }


def show(result: dict[str, Any]) -> None:
    """Prints the figures as a table."""
    table = Table(title="Host")
    table.add_column("")
    table.add_column("figure", justify="right")
    table.add_column("baseline, target")
    if one := result.get("front_end"):
        table.add_row(
            "front end, CPU per 20 ms packet over a bare echo",
            f"{one['ratio_to_echo']}",
            f"{one['us_per_packet']} us over {one['echo_us_per_packet']} us; at most 0.85",
        )
    if one := result.get("front_ends"):
        table.add_row("CPU per packet, 4 front ends over 1", f"{one['four_over_one']}", "at most 1.05")
        table.add_row(
            "streams that 2 front ends carry over 1", f"{one['two_carry_over_one']}", "at least 1.8"
        )
    for one in result.get("engine", ()):
        table.add_row(
            f"engine beside the model's step, {one['streams']} streams, us a stream's step",
            f"{one['us']}",
            f"batches of {one['batch']:.0f}; at most 10",
        )
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.host",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="shorter runs: about two minutes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--only", choices=("front_end", "front_ends", "engine"), action="append", help="some parts (all)"
    )
    args = parser.parse_args(argv)
    parts = args.only or ["front_end", "front_ends", "engine"]
    rounds, seconds = (2, 4.0) if args.quick else (5, 6.0)
    result: dict[str, Any] = {}
    if "engine" in parts:
        console.print("engine: its loop beside the model's step")
        result["engine"] = [measure_loop(streams, seconds) for streams in (64, 512, 2048)]
    if "front_end" in parts:
        console.print("front end: null model against bare echo")
        result["front_end"] = measure_front_end(rounds, seconds)
    if "front_ends" in parts:
        console.print("front ends: several against one")
        result["front_ends"] = measure_front_ends(max(2, rounds - 2), seconds)
    write_report(args.json, result)
    show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())

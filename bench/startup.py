"""Measures how long the service takes from the command to SERVING, and from SIGTERM to its end.

    python -m bench.startup [--quick] [--json build/startup.json]

- `demo, warm`: the bundled model, its loops compiled before.
- `demo, nothing compiled`: the same with an empty folder for machine code each time.
- `114M, warm`: random weights of the shape of NVIDIA's model.
- `bridge`: the WebSocket bridge, until it listens.

Medians of five starts, after one that does not count where it is to be warm. SERVING is what `grpc.health.v1` answers.
`serving_s` is made of parts, from the lines of the log: until the front end `listens`; until the engine, which begins
at the same time, has imported what it needs and is `reading` the model; until that is `made`, of which `compiling` is
the time for loops that were not there; and until it is `warm`. `cpu_s` is the CPU time of all its processes, start to
end: on a machine that does other work too, that is what can be compared. `load` is the machine's own (1 minute).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from asr_common.server_process import ServerProcess
from bench.kept import random_model
from bench.options import write_report
from testbed.processes import ROOT, clean_environment

STARTS, QUICK_STARTS = 5, 2
PATIENCE_S = 600.0

console = Console(stderr=True)

# What the log says at the end of each part of the service's start, in their order.
MILESTONES = {
    "listens": r"front end 0 listens on ",
    "reading": r": reading ",
    "made": r"batch of 1$",
    "warm": r"serving grpc on",
}

Figures = dict[str, float]


def parts_of(lines: Sequence[str], began: float) -> Figures:
    """Works out from a log how long each part of a start took, in seconds.

    Args:
        lines: of the log, each with its time.
        began: Unix time of the command.
    """
    parts: Figures = {}
    last = began
    for name, pattern in MILESTONES.items():
        at = next((_unix(line) for line in lines if re.search(pattern, line)), last)
        # Front end and engine start side by side: a line may have come before the one of the part before.
        parts[name] = round(max(0.0, at - last), 3)
        last = max(last, at)
    compiled = [float(found[1]) for line in lines if (found := re.search(r"compiled in ([\d.]+) s", line))]
    return parts | {"compiling": sum(compiled)}


def start_service(model: str, **settings: str) -> Figures:
    """Starts the service and stops it again, without a stream."""
    environment = clean_environment(
        ASR_HOST="127.0.0.1", ASR_GRPC_PORT="0", ASR_MODEL=model, ASR_DEVICE="cpu", **settings
    )
    began, began_unix = time.monotonic(), time.time()
    with ServerProcess(["-m", "asr_service", "serve"], environment, cwd=ROOT) as server:
        target = server.wait_line(MILESTONES["warm"] + r" (\S+)", PATIENCE_S).group(1)
        serving_s = time.monotonic() - began
        with grpc.insecure_channel(target) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            status = check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).status
        if status != health_pb2.HealthCheckResponse.SERVING:
            raise RuntimeError(f"it says that it serves, and its health says {status}")
        stop_s = stop(server)
        return {"serving_s": serving_s, **parts_of(server.lines, began_unix), "stop_s": stop_s}


def start_bridge() -> Figures:
    """Starts the bridge, to a service that is not there, and stops it again."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        environment = clean_environment(
            ASR_HOST="127.0.0.1",
            ASR_PORT="0",
            ASR_GRPC_TARGET="127.0.0.1:9",
            ASR_BRIDGE_READY_FILE=str(ready),
        )
        began = time.monotonic()
        with ServerProcess(["-m", "ws_bridge"], environment, cwd=ROOT) as server:
            if not server.wait_file(ready, PATIENCE_S):
                raise RuntimeError(f"the bridge was not ready after {PATIENCE_S:g} s: {server.output}")
            return {"serving_s": time.monotonic() - began, "stop_s": stop(server)}


def stop(server: ServerProcess) -> float:
    """Sends SIGTERM and returns the seconds until the process has ended."""
    began = time.monotonic()
    server.signal()
    if (code := server.wait(PATIENCE_S)) != 0:
        raise RuntimeError(f"it ended with {code}: {server.output}")
    return time.monotonic() - began


def one_start(case: str) -> Figures:
    """Makes one start of a case, and adds its CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as empty:
        match case:
            case "demo, warm":
                figures = start_service("demo")
            case "demo, nothing compiled":
                figures = start_service("demo", NUMBA_CACHE_DIR=empty)
            case "114M, warm":
                figures = start_service(str(random_model("large")))
            case _:
                figures = start_bridge()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return figures | {"cpu_s": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime}


def measure(case: str, starts: int) -> dict[str, float]:
    """Makes so many starts of a case; medians in seconds."""
    if case == "114M, warm":
        # Not within the first start.
        random_model("large")
    if case != "demo, nothing compiled":
        one_start(case)
    made = []
    for number in range(starts):
        made.append(one_start(case))
        console.print(f"  {case}, start {number + 1}: {_shown(made[-1])}", highlight=False)
    return {name: round(statistics.median(one[name] for one in made), 2) for name in made[0]}


def _unix(line: str) -> float:
    """The time at which a line of the log was written."""
    return datetime.fromisoformat(line.split(" ", 1)[0]).timestamp()


def _shown(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in figures.items())


CASES = ("demo, warm", "demo, nothing compiled", "114M, warm", "bridge")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STARTS} starts of each, not {STARTS}")
    parser.add_argument("--case", action="append", choices=CASES, help="only these (may be repeated)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args(arguments)
    starts = QUICK_STARTS if options.quick else STARTS
    figures = {case: measure(case, starts) for case in options.case or CASES}
    names = list(dict.fromkeys(name for of_case in figures.values() for name in of_case))
    table = Table(title=f"Medians of {starts} starts, in seconds", title_justify="left")
    for column in ("", *names):
        table.add_column(column, justify="right" if column else "left")
    for case, of_case in figures.items():
        table.add_row(case, *(f"{of_case[name]:.2f}" if name in of_case else "-" for name in names))
    console.print(table)
    load = round(os.getloadavg()[0], 1)
    write_report(options.json, {"starts": starts, "cpus": os.cpu_count(), "load": load, "cases": figures})


if __name__ == "__main__":
    main()

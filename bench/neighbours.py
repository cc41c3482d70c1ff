"""Measures what other programs on the same cores cost a step of the model.

    python -m bench.neighbours --json build/neighbours.json

Whole steps (features, encoder, decoder) of 16 streams of the 114M shape with random weights, in turns and in one run:

- `idle`: nothing else runs (on a machine that does nothing else: see the load average in the report).
- `lowest priority`: one busy program of nice 19 beside it.
- `core taken`: one busy program of the same priority that is tied to one of the cores.

`ratio` is that of the medians to `idle`; `cpu_ms` the CPU time of all threads of a step: what waits burn is in it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

from asr_service.core.cpus import usable_cpus
from asr_service.core.model_settings import ModelSettings
from asr_service.model import make_model
from asr_service.observability import log
from bench.bare_step import WARM_STEPS, Batch
from bench.kept import random_model
from bench.options import write_report
from testbed.babble import babble

IDLE = "idle"
BUSY = {
    "lowest priority": "os.nice(19)",
    "core taken": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
}
"""What a busy program does first, by the situation that it makes."""


@dataclass
class Times:
    """What steps took in a situation, ms: by the clock, and CPU time of all threads."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """One line of the table; medians."""

    situation: str
    step_ms: float
    p90_ms: float
    ratio: float
    cpu_ms: float


@contextmanager
def busy_program(first: str) -> Iterator[None]:
    """Keeps a core busy while the context lasts; the program is under way when it begins."""
    program = f"import os\n{first}\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield
        finally:
            process.kill()


def measure(batch: Batch, rounds: int, steps: int) -> dict[str, Times]:
    """Times so many steps in each situation, round by round."""
    found = {situation: Times() for situation in (IDLE, *BUSY)}
    for _ in range(WARM_STEPS):
        batch.step()
    for _ in range(rounds):
        for situation, times in found.items():
            with busy_program(BUSY[situation]) if situation in BUSY else nullcontext():
                for _ in range(steps):
                    before = time.process_time()
                    times.wall.append(1000 * batch.step())
                    times.cpu.append(1000 * (time.process_time() - before))
    return found


def summarise(found: dict[str, Times]) -> list[Row]:
    """Makes the table of what was timed."""
    idle = statistics.median(found[IDLE].wall)
    rows = []
    for situation, times in found.items():
        step, p90 = statistics.median(times.wall), statistics.quantiles(times.wall, n=10)[-1]
        cpu = statistics.median(times.cpu)
        rows.append(Row(situation, round(step, 1), round(p90, 1), round(step / idle, 2), round(cpu, 1)))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--rounds", type=int, help="of all situations (default 10)")
    parser.add_argument("--steps", type=int, default=6, help="of each situation in a round (default 6)")
    parser.add_argument("--streams", type=int, default=16, help="of a step (default 16)")
    parser.add_argument("--threads", type=int, help="of a step (default: one for each CPU it may use)")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the report")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (3 if options.quick else 10)
    log.set_up("error", "text")
    settings = ModelSettings(
        str(random_model("large")),
        device="cpu",
        precision=options.precision,
        slots=options.streams,
        threads=options.threads,
    )
    batch = Batch(make_model(settings), babble(20.0, 1), options.streams)
    load = os.getloadavg()[0]
    rows = summarise(measure(batch, rounds, options.steps))
    print(f"{'situation':<16}" + "".join(f"{name:>10}" for name in list(asdict(rows[0]))[1:]))
    for row in rows:
        print(f"{row.situation:<16}" + "".join(f"{value:>10}" for value in list(asdict(row).values())[1:]))
    report = {
        "baseline": "the same step on idle cores, same run, in turns",
        "cpus": str(usable_cpus()),
        "threads": options.threads or usable_cpus().threads,
        "load_before": round(load, 2),
        "streams": options.streams,
        "rows": [asdict(row) for row in rows],
    }
    write_report(options.json, report)


if __name__ == "__main__":
    main()

"""Simulates days of calls against an autoscaled fleet: streams refused, machines used, and what to tell the autoscaler.

    python -m bench.fleet [--quick] [--json build/fleet.json] [--slots 100] [--peak 1000]

Nothing is measured: `bench/fleet_plan.py` has the calls (Poisson, a weekday's curve, a surge of half as many again for
ten minutes), the autoscaler (Kubernetes' rules) and the plan of who knows the future. Each row is the same days, from
fixed seeds. How long an instance takes to start is asked of three fleets:

- 10 s: the service as bench/results/startup-cpu-2cores-avx2.json has it (6.2 s), and 4 s until a probe, a name server
  and the proxy have seen it;
- 60 s: its image has to be fetched as well (assumed);
- 180 s: its machine has to be made as well (assumed).

`refused` and `cut` are of 10,000 calls; `worst` is the day with most of them. `hours` are of machines, a day; `perfect`
is how many times the perfect plan's hours that is. Recommended is the highest target whose worst day refuses at most
one call of 10,000. Of the windows that refuse as few and cost at most 2 % more than the cheapest: the longest before
instances are taken away, since each that comes back has to start, and the shortest before some are added.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.fleet_plan import Autoscaler, Calls, Day, Outcome, Perfect, perfect_plan, simulate
from bench.options import write_report

SEEDS = range(1, 6)
TARGETS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
STARTS = (10.0, 60.0, 180.0)
DOWN_WINDOWS = (0.0, 60.0, 300.0, 600.0, 900.0, 1800.0)
UP_WINDOWS = (0.0, 30.0, 60.0, 120.0)
DRAINS = (30.0, 300.0, 900.0, 1800.0, 3600.0)
MOST_REFUSED = 1.0
"""Of 10,000 calls, on the worst day, of what is recommended."""
PLAIN_START_S = 60.0
"""The fleet that the defaults of the chart are for."""

console = Console(stderr=True)


@dataclass(frozen=True)
class Row:
    """What a setting comes to, over all days."""

    start_s: float
    target: float
    down_window_s: float
    up_window_s: float
    drain_s: float
    refused: float
    worst_refused: float
    cut: float
    hours: float
    perfect: float
    starts: float
    most: int
    taken: float


def run(days: Sequence[tuple[Calls, Perfect]], scaler: Autoscaler) -> Row:
    """Runs all days with a setting."""
    outcomes = [simulate(calls, scaler) for calls, _ in days]

    def mean(values: Sequence[float]) -> float:
        return statistics.mean(values)

    def of_10_000(outcome: Outcome, count: int) -> float:
        return 10_000 * count / outcome.calls

    refused = [of_10_000(one, one.refused) for one in outcomes]
    perfect = [plan.machine_s for _, plan in days]
    return Row(
        start_s=scaler.start_s,
        target=scaler.target,
        down_window_s=scaler.down_window_s,
        up_window_s=scaler.up_window_s,
        drain_s=scaler.drain_s,
        refused=round(mean(refused), 2),
        worst_refused=round(max(refused), 2),
        cut=round(mean([of_10_000(one, one.cut) for one in outcomes]), 2),
        hours=round(mean([one.machine_s for one in outcomes]) / 3600, 1),
        perfect=round(sum(one.machine_s for one in outcomes) / sum(perfect), 3),
        starts=round(mean([one.starts for one in outcomes]), 1),
        most=max(one.most for one in outcomes),
        taken=round(mean([one.taken for one in outcomes]), 3),
    )


def recommended_target(rows: Sequence[Row]) -> float | None:
    """The highest target that refuses few; None where each refuses too many."""
    return max((row.target for row in rows if row.worst_refused <= MOST_REFUSED), default=None)


def cheap(rows: Sequence[Row]) -> list[Row]:
    """Those that refuse few and cost about as little as any of these."""
    few = [row for row in rows if row.worst_refused <= MOST_REFUSED] or list(rows)
    cheapest = min(row.hours for row in few)
    return [row for row in few if row.hours <= 1.02 * cheapest]


def show(title: str, rows: Sequence[Row], varied: str) -> None:
    """Prints rows as a table, `varied` first."""
    table = Table(title=title, title_justify="left")
    names = [varied, "refused", "worst_refused", "cut", "hours", "perfect", "starts", "most", "taken"]
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{asdict(row)[name]:g}" for name in names))
    console.print(table)


def markdown(report: Mapping[str, Any]) -> str:
    """The table of docs/proxy.md: by target, what is refused where instances take so long to start, and the hours."""
    starts = [f"{start:g} s" for start in STARTS]
    names = [
        "target",
        f"refused (worst day), {starts[0]} to start",
        *starts[1:],
        f"hours, {PLAIN_START_S:g} s",
    ]
    lines = [f"| {' | '.join(names)} |", "| --- | --- | --- | --- | --- |"]
    columns = [report[f"target, start {start}"] for start in starts]
    for rows in zip(*columns, strict=True):
        cells = [f"{row['refused']:g} ({row['worst_refused']:g})" for row in rows]
        hours = next(row["perfect"] for row in rows if row["start_s"] == PLAIN_START_S)
        lines.append(f"| {100 * rows[0]['target']:g} % | {' | '.join(cells)} | {hours:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one day, a fifth of its calls")
    parser.add_argument("--peak", type=float, default=1000.0, help="streams that are open at the peak (1000)")
    parser.add_argument("--slots", type=int, default=100, help="streams of an instance (100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args(arguments)
    day = Day(peak_streams=options.peak / 5 if options.quick else options.peak)
    days = []
    for seed in list(SEEDS)[: 1 if options.quick else None]:
        calls = day.calls(seed)
        days.append((calls, perfect_plan(calls, options.slots)))
    plan_hours = statistics.mean(plan.machine_s for _, plan in days) / 3600
    console.print(
        f"{len(days)} days of {statistics.mean(len(calls) for calls, _ in days):,.0f} calls; "
        f"the perfect plan takes {plan_hours:.1f} hours of machines a day, {max(plan.most for _, plan in days)} at most"
    )

    plain = Autoscaler(target=0.75, slots=options.slots)
    report: dict[str, object] = {
        "day": asdict(day),
        "slots": options.slots,
        "seeds": len(days),
        "perfect_hours": round(plan_hours, 1),
    }
    recommended: dict[str, object] = {}
    targets: dict[float, float] = {}
    for start_s in STARTS:
        rows = [run(days, replace(plain, start_s=start_s, target=target)) for target in TARGETS]
        show(f"Target of streams over slots, instances that take {start_s:g} s to start", rows, "target")
        report[f"target, start {start_s:g} s"] = [asdict(row) for row in rows]
        if (best := recommended_target(rows)) is not None:
            targets[start_s] = best
    recommended["target_by_start_s"] = {f"{start:g}": target for start, target in targets.items()}

    plain = replace(plain, start_s=PLAIN_START_S, target=targets.get(PLAIN_START_S, min(TARGETS)))
    rows = [run(days, replace(plain, down_window_s=window)) for window in DOWN_WINDOWS]
    show("Window before instances are taken away", rows, "down_window_s")
    report["down window"] = [asdict(row) for row in rows]
    down_window = max(row.down_window_s for row in cheap(rows))
    recommended |= {"target": plain.target, "scale_down_window_s": down_window}

    rows = [run(days, replace(plain, up_window_s=window)) for window in UP_WINDOWS]
    show("Window before instances are added", rows, "up_window_s")
    report["up window"] = [asdict(row) for row in rows]
    recommended["scale_up_window_s"] = min(row.up_window_s for row in cheap(rows))

    rows = [run(days, replace(plain, drain_s=drain)) for drain in DRAINS]
    show("Time that an instance has to drain (ASR_DRAIN_S)", rows, "drain_s")
    report["drain"] = [asdict(row) for row in rows]

    print(f"For docs/proxy.md:\n{markdown(report)}\nrecommended: {recommended}")
    write_report(options.json, report | {"recommended": recommended})


if __name__ == "__main__":
    main()

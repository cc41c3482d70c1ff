"""Sums up what the streams of a run heard: percentiles over all of them, as plain values and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from clients.loadgen.plan import Heard, Plan

SETTLE_S = 1.0
"""Start of each stream that is left out of its interim latencies: connecting is not recognizing."""


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Gives p50, p95, p99 and max in ms, by the nearest rank; nothing of no values."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    ranks = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))], 2)
        for name, q in ranks.items()
    }


def sustained(heard: Heard, plan: Plan, limit_s: float) -> bool:
    """Tells whether a stream ended well and its words still kept up in its last quarter, at the 95th percentile.

    A stream without interims there is judged by its last final.
    """
    late = [latency for at, latency in heard.interims if at >= 0.75 * plan.seconds] or heard.finals[-1:]
    return heard.outcome == "ok" and bool(late) and sorted(late)[int(0.95 * (len(late) - 1))] <= limit_s


def growth(heard: Sequence[Heard], plan: Plan) -> float | None:
    """Gives the seconds by which the median latency of interims grew from the streams' second quarter to their last.

    What keeps up stays where it is; what is short of real time by a share falls behind by that share of the half of a
    stream's time that lies between, however far the latency still is from any limit. None if a quarter has no interims.
    """

    def quarter(first: float, end: float) -> list[float]:
        return [
            late
            for one in heard
            for at, late in one.interims
            if first * plan.seconds <= at < end * plan.seconds
        ]

    early, late = quarter(0.25, 0.5), quarter(0.75, float("inf"))
    return median(late) - median(early) if early and late else None


def summarize(heard: list[Heard], plan: Plan, wall_s: float, limit_s: float) -> dict[str, Any]:
    """Makes the figures of a run.

    Args:
        heard: by all streams.
        plan: what they sent.
        wall_s: how long the run took.
        limit_s: the latency up to which a stream counts as sustained.
    """
    interims = [
        latency for one in heard for at, latency in one.interims if at >= min(SETTLE_S, plan.seconds / 4)
    ]
    finals = [latency for one in heard for latency in one.finals]
    details = {one.outcome: one.detail for one in heard if one.outcome != "ok"}
    grown = growth(heard, plan)
    audio_s = sum(len(one.sent) for one in heard) * plan.packet_ms / 1000
    return {
        "streams": len(heard),
        "sustained": sum(sustained(one, plan, limit_s) for one in heard),
        "outcomes": dict(Counter(one.outcome for one in heard)),
        "error_details": details,
        "seconds": round(wall_s, 2),
        "audio_s": round(audio_s, 2),
        "packets": sum(len(one.sent) for one in heard),
        "packet_ms": plan.packet_ms,
        "interims": len(interims),
        "interim_latency_ms": percentiles(interims),
        "interim_growth_ms": None if grown is None else round(1000 * grown, 2),
        "final_latency_ms": percentiles(finals),
        "sent_late_ms": percentiles([late for one in heard for late in one.late]),
        "limit_ms": round(1000 * limit_s),
    }


def show(report: dict[str, Any], console: Console) -> None:
    """Prints the figures as a table."""
    table = Table(title=f"{report['streams']} streams, {report['seconds']:g} s")
    table.add_column("")
    for name in ("p50", "p95", "p99", "max"):
        table.add_column(name, justify="right")
    rows = {
        "interim after its audio, ms": "interim_latency_ms",
        "final after finalize or half-close, ms": "final_latency_ms",
        "packet sent late by the generator, ms": "sent_late_ms",
    }
    for title, key in rows.items():
        table.add_row(
            title, *(f"{report[key].get(name, float('nan')):.1f}" for name in ("p50", "p95", "p99", "max"))
        )
    console.print(table)
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report["outcomes"].items()))
    console.print(
        f"sustained {report['sustained']} of {report['streams']} (words within {report['limit_ms']} ms at the end); "
        f"ended: {ended}; {report['audio_s']:g} s of audio in {report['packets']} packets"
    )
    for outcome, detail in report["error_details"].items():
        console.print(f"  {outcome}: {detail}", style="red")

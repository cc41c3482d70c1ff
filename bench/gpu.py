"""Measures this service on a GPU in a quarter of an hour, and holds its tokens to those that are right.

    python -m bench.gpu --out build/gpu
    python -m bench.gpu --device cpu --quick --out build/gpu

It needs torch, numpy, PyYAML and what the repository carries; no NeMo. Each section runs in a process of its own and
has a time limit, so that none takes another with it: `machine` (versions, what copies and products reach), `tokens`
(those of the bundled model against what is right, in every precision; models of other shapes against the CPU), `steps`
(a step's duration by stage, for NVIDIA's 114M and 0.6B shapes with random weights). `--only tokens,steps` runs some.

`OUT/gpu.json` has everything, and is written anew after each section; the tables come last. With `--device cpu` it
rehearses all of it, with fewer and smaller runs if told `--quick`. The exit code is 1 if a section failed or a token
is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

SECTIONS: dict[str, tuple[str, str, float]] = {
    "machine": ("bench.gpu_machine", "measure", 30.0),
    "tokens": ("bench.gpu_tokens", "check", 75.0),
    "steps": ("bench.gpu_steps", "measure", 200.0),
}
"""Module, function and time limit in seconds of each section."""
_QUICK_SHARE = 3.0
# For a process to end by itself once its time is over, and to print what it has.
_GRACE_S = 5.0


@dataclass
class Section:
    """What a section's function is given: where to run, for how long, and where to put what it finds.

    Attributes:
        device: as torch names it.
        quick: whether to make a rehearsal of it.
        ends_at: monotonic time at which it should be over.
        out: takes its rows, one JSON object a line.
        rows: those so far.
    """

    device: str
    quick: bool
    ends_at: float
    out: TextIO
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.ends_at - time.monotonic()

    def row(self, kind: str, **values: Any) -> None:
        """Puts down something that was found, at once."""
        self.rows.append({"kind": kind} | values)
        self.out.write(json.dumps(self.rows[-1]) + "\n")
        self.out.flush()

    def attempt(self, what: str, work: Callable[[], object]) -> bool:
        """Does a part of a section; an error is put down and the section goes on. Returns whether there was none."""
        if self.left_s <= 0:
            self.row("left out", what=what)
            return False
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            self.row("error", what=what, error=f"{type(error).__name__}: {error}"[:500])
            return False
        return True


def run_section(name: str, device: str, *, quick: bool, limit_s: float, rows: Path) -> None:
    """Runs a section in this process, once a line comes from standard input: its imports are done before."""
    module, function, _ = SECTIONS[name]
    work = getattr(importlib.import_module(module), function)
    sys.stdin.readline()
    with rows.open("w") as out:
        section = Section(device, quick, time.monotonic() + limit_s, out)
        section.attempt(name, lambda: work(section))


class _Child:
    """A section's process, which imports what it needs while others run and begins when it is told to."""

    def __init__(self, name: str, options: argparse.Namespace, limit_s: float) -> None:
        self.name, self.limit_s = name, limit_s
        self.rows = options.out / f"{name}.jsonl"
        self.log = options.out / f"{name}.log"
        self.rows.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "bench.gpu", "--section", name, "--device", options.device]
        argv += ["--out", str(options.out), "--limit", str(limit_s), *(["--quick"] if options.quick else [])]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def run(self) -> dict[str, Any]:
        """Lets it run to its end, or to the end of its time; returns what it found."""
        began = time.monotonic()
        why = ""
        try:
            self._process.communicate(b"go\n", timeout=self.limit_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            why = "ran over its time"
        if self._process.returncode and not why:
            why = f"ended with {self._process.returncode}"
        rows = [json.loads(line) for line in self.rows.read_text().splitlines()] if self.rows.exists() else []
        return {"seconds": round(time.monotonic() - began, 1), "failed": why, "rows": rows}

    def drop(self) -> None:
        """Ends it without having it run."""
        self._process.kill()
        self._process.communicate()


def failures(found: dict[str, Any]) -> list[str]:
    """Returns what went wrong, a line each."""
    lines = []
    for name, section in found.items():
        if section["failed"]:
            lines.append(f"{name}: {section['failed']}")
        for row in section["rows"]:
            if row["kind"] == "error":
                lines.append(f"{name}: {row['what']}: {row['error']}")
            elif row["kind"] == "left out":
                lines.append(f"{name}: no time for {row['what']}")
            elif row.get("right") is False:
                lines.append(f"{name}: WRONG: {json.dumps(row)[:300]}")
    return lines


def show(found: dict[str, Any]) -> None:
    """Prints a table of each kind of row, then what went wrong."""
    for name, section in found.items():
        print(f"\n== {name}: {section['seconds']} s {section['failed']}")
        kinds: dict[str, list[dict[str, Any]]] = {}
        for row in section["rows"]:
            kinds.setdefault(row["kind"], []).append(row)
        for kind, rows in kinds.items():
            if kind not in ("error", "left out", "kernels"):
                _print_table(kind, rows)
    wrong = failures(found)
    print(f"\n== {len(wrong)} failures" if wrong else "\n== nothing failed")
    for line in wrong:
        print(line)


def _print_table(kind: str, rows: Sequence[dict[str, Any]]) -> None:
    if len(rows) == 1:
        print(f"{kind}: " + " ".join(f"{key}={value}" for key, value in rows[0].items() if key != "kind"))
        return
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "kind"]
    cells = [[_shown(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[n]) for line in [columns, *cells]) for n in range(len(columns))]
    print(f"- {kind}")
    for line in (columns, *cells):
        print(" ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda:0", help="as ASR_DEVICE (default cuda:0)")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: fewer and smaller runs")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for what is found")
    parser.add_argument("--only", default=",".join(SECTIONS), help="the sections to run, comma-separated")
    parser.add_argument("--most", type=float, default=600.0, help="seconds for all of it (default 600)")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.section:
        rows = options.out / f"{options.section}.jsonl"
        run_section(options.section, options.device, quick=options.quick, limit_s=options.limit, rows=rows)
        return 0
    names = options.only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    ends_at = time.monotonic() + options.most
    found: dict[str, Any] = {}
    following: _Child | None = None
    for name, after in zip(names, [*names[1:], None], strict=True):
        share = _QUICK_SHARE if options.quick and options.device == "cpu" else 1.0
        child = following or _Child(name, options, SECTIONS[name][2] * share)
        following = _Child(after, options, SECTIONS[after][2] * share) if after else None
        left_s = ends_at - time.monotonic()
        if left_s < _GRACE_S:
            child.drop()
            found[name] = {"seconds": 0.0, "failed": "no time was left", "rows": []}
            continue
        child.limit_s = min(child.limit_s, left_s - _GRACE_S)
        found[name] = child.run()
        (options.out / "gpu.json").write_text(
            json.dumps({"device": options.device, "sections": found}, indent=1)
        )
    show(found)
    return 1 if failures(found) else 0


if __name__ == "__main__":
    sys.exit(main())

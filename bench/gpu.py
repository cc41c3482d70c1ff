"""Measures this service on a GPU in a quarter of an hour, and holds its tokens to those that are right.

    python -m bench.gpu --out build/gpu
    python -m bench.gpu --device cpu --quick --out build/gpu

It needs torch, numpy, sentencepiece, PyYAML and what the repository carries; no NeMo. Each section runs in a process of
its own and has a time limit, so that none takes another with it: `machine` (versions, what copies and products reach),
`tokens` (those of the bundled model against what is right, in every precision; models of other shapes against the CPU),
`steps` (a step's duration by stage, for NVIDIA's 114M and 0.6B shapes with random weights), `rounds` (the largest batch
in real time, and streams in rounds of batches), `service` (streams that the whole service sustains, and how late it is;
it needs grpcio and the service's other packages, and says so where they are missing). `--only tokens,steps` runs some.

`OUT/gpu.json` has everything, and is written anew after each section; the tables come last. With `--device cpu` it
rehearses all of it, with fewer and smaller runs if told `--quick`. The exit code is 1 if a section failed or a token
is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

SECTIONS: dict[str, tuple[str, str, float]] = {
    "machine": ("bench.gpu_machine", "measure", 30.0),
    "tokens": ("bench.gpu_tokens", "check", 75.0),
    "steps": ("bench.gpu_steps", "measure", 200.0),
    "rounds": ("bench.gpu_rounds", "measure", 90.0),
    "service": ("bench.gpu_service", "measure", 120.0),
}
"""Module, function and time limit in seconds of each section."""
_QUICK_SHARE = 3.0
# For a process to end by itself once its time is over, and to print what it has.
_GRACE_S = 15.0
_MODEL_SHAPE, _MODEL_FILE = "large", "114m.nemo"


@dataclass
class Section:
    """What a section's function is given: where to run, for how long, and where to put what it finds.

    Attributes:
        device: as torch names it.
        quick: whether to make a rehearsal of it.
        ends_at: monotonic time at which it should be over.
        out: takes its rows, one JSON object a line.
        out_folder: for files.
        rows: those so far.
    """

    device: str
    quick: bool
    ends_at: float
    out: TextIO
    out_folder: Path = Path("build/gpu")
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


def run_section(name: str, device: str, *, quick: bool, rows: Path) -> None:
    """Runs a section in this process for as many seconds as a line of standard input says: imports are done before."""
    module, function, _ = SECTIONS[name]
    work = getattr(importlib.import_module(module), function)
    if device == "cuda":
        # As the service takes it; some of torch's functions do not.
        device = "cuda:0"
    limit_s = float(sys.stdin.readline())
    with rows.open("w") as out:
        section = Section(device, quick, time.monotonic() + limit_s, out, rows.parent)
        section.attempt(name, lambda: work(section))


def make_model_file(path: Path) -> None:
    """Makes the file of the 114M shape with random weights, at the lowest priority; a name of its own until then."""
    from testbed.random_file import write_random_file
    from testbed.shapes import SHAPES

    os.nice(19)
    unfinished = path.with_suffix(".unfinished")
    write_random_file(SHAPES[_MODEL_SHAPE], unfinished)
    unfinished.replace(path)


def model_file(folder: Path, patience_s: float) -> Path:
    """Waits for the file that is made beside the first sections.

    Raises:
        RuntimeError: it is not there in time.
    """
    path, ends_at = folder / _MODEL_FILE, time.monotonic() + patience_s
    while not path.exists():
        if time.monotonic() > ends_at:
            raise RuntimeError(f"{path.name} was not made in time: see model.log")
        time.sleep(0.1)
    return path


class _ModelFile:
    """The process that makes the file of a model, and the file: gone at the end."""

    def __init__(self, folder: Path, *, wanted: bool) -> None:
        self._path, self._process = folder / _MODEL_FILE, None
        self._path.unlink(missing_ok=True)
        if wanted:
            argv = [sys.executable, "-m", "bench.gpu", "--make-model", str(self._path)]
            with (folder / "model.log").open("w") as log:
                # A few threads, so that most cores are the sections'.
                threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 4))}
                self._process = subprocess.Popen(argv, env=os.environ | threads, stdout=log, stderr=log)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._path.unlink(missing_ok=True)
        self._path.with_suffix(".unfinished").unlink(missing_ok=True)


class _Child:
    """A section's process, which imports what it needs while others run and begins when it is told to.

    Args:
        name: of the section.
        options: of the command line.
        limit_s: how long it may take.
    """

    def __init__(self, name: str, options: argparse.Namespace, limit_s: float) -> None:
        self.name, self.limit_s = name, limit_s
        self.rows = options.out / f"{name}.jsonl"
        self.log = options.out / f"{name}.log"
        self.rows.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "bench.gpu", "--section", name, "--device", options.device]
        argv += ["--out", str(options.out), *(["--quick"] if options.quick else [])]
        with self.log.open("w") as log:
            # What it starts goes with it.
            self._process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def run(self) -> dict[str, Any]:
        """Lets it run to its end, or to the end of its time; returns what it found."""
        began = time.monotonic()
        why = ""
        try:
            self._process.communicate(f"{self.limit_s}\n".encode(), timeout=self.limit_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            self.drop()
            why = "ran over its time"
        except BaseException:
            self.drop()
            raise
        if self._process.returncode and not why:
            why = f"ended with {self._process.returncode}"
        rows = [json.loads(line) for line in self.rows.read_text().splitlines()] if self.rows.exists() else []
        return {"seconds": round(time.monotonic() - began, 1), "failed": why, "rows": rows}

    def drop(self) -> None:
        """Ends it, and what it has started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
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
    parser.add_argument("--most", type=float, default=840.0, help="seconds for all of it (default 840)")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--make-model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make_model:
        make_model_file(options.make_model)
        return 0
    if options.section:
        rows = options.out / f"{options.section}.jsonl"
        run_section(options.section, options.device, quick=options.quick, rows=rows)
        return 0
    names = options.only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    ends_at = time.monotonic() + options.most
    with _ModelFile(options.out, wanted="service" in names and not options.quick):
        found = _run_sections(names, options, ends_at)
    show(found)
    return 1 if failures(found) else 0


def _run_sections(names: Sequence[str], options: argparse.Namespace, ends_at: float) -> dict[str, Any]:
    """Runs sections one after the other, each as long as it may; returns what they found."""
    found: dict[str, Any] = {}
    following: _Child | None = None
    share = _QUICK_SHARE if options.quick and options.device == "cpu" else 1.0
    for name, after in zip(names, [*names[1:], None], strict=True):
        child = following or _Child(name, options, SECTIONS[name][2] * share)
        following = _Child(after, options, SECTIONS[after][2] * share) if after else None
        left_s = ends_at - time.monotonic()
        if left_s < _GRACE_S:
            child.drop()
            found[name] = {"seconds": 0.0, "failed": "no time was left", "rows": []}
            continue
        child.limit_s = min(child.limit_s, left_s - _GRACE_S)
        try:
            found[name] = child.run()
        except BaseException:
            if following is not None:
                following.drop()
            raise
        (options.out / "gpu.json").write_text(
            json.dumps({"device": options.device, "sections": found}, indent=1)
        )
    return found


if __name__ == "__main__":
    # What ends it ends its sections too, which are sessions of their own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())

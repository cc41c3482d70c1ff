"""Runs all benchmarks, of speed and of words, one after the other, since they would disturb each other.

    python -m bench [--quick] [--json FOLDER]

Each also runs alone (`python -m bench.service --help`) and prints its own table. Exit code 1 if one failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "engine": (),
    "host": (),
    "service": (),
    "bridge": (),
    "startup": (),
    "age": (),
    "neighbours": (),
    "uploads": (),
    "peers": (),
    "precision": (),
    "boosting": (),
    "confidence": ("--table",),
    "endpoints": ("--table",),
    "trailing": ("--table",),
    "word_times": (),
    "fleet": (),
}
"""What is run, with what each is told besides. Not `score`, which needs a running service."""


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument(
        "--json", type=Path, metavar="FOLDER", help="write each benchmark's figures into this folder"
    )
    options = parser.parse_args()
    failed = []
    for name, told in BENCHMARKS.items():
        arguments = [*told, *(["--quick"] if options.quick else [])]
        if options.json is not None:
            options.json.mkdir(parents=True, exist_ok=True)
            arguments += ["--json", str(options.json / f"{name}.json")]
        print(f"\n--- bench.{name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}", *arguments]).returncode != 0:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

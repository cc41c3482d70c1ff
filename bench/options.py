"""Holds the options that the benchmarks of words have in common, and writes the reports of all."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

QUICK_LIMIT = 56
"""Utterances of a quick run: a quarter of the evaluation set."""


def words_parser(
    description: str | None, *, limit: int = 0, threads: int | None = None
) -> argparse.ArgumentParser:
    """A parser with the options that each of them has; a benchmark adds its own.

    Args:
        description: the benchmark's docstring.
        limit: of utterances, where the command line gives none; 0: all.
        threads: of a step, where the command line gives none; None: torch's choice.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_LIMIT} utterances, evenly spread")
    parser.add_argument("--model", default="demo", help="model to measure (default: demo)")
    parser.add_argument(
        "--limit", type=int, default=limit, help=f"only so many utterances, evenly spread ({limit or 'all'})"
    )
    parser.add_argument(
        "--threads", type=int, default=threads, help=f"of a step ({threads or 'as many as torch chooses'})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the report")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the options, with the limit that `--quick` means where none is given."""
    options = parser.parse_args(arguments)
    if options.quick and options.limit == parser.get_default("limit"):
        options.limit = QUICK_LIMIT
    return options


def write_report(path: Path | None, report: Mapping[str, object]) -> None:
    """Writes the report as JSON where a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")

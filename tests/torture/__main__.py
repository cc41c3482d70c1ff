"""python -m tests.torture [case ...] [--seconds 600] [--inputs 1000000] [--seed N] [--json FILE]"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path

from tests.torture.cases import CASES, PARTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="The fault suite, in full.")
    parser.add_argument(
        "cases",
        nargs="*",
        metavar="case",
        help=f"of {', '.join(CASES)} (default: all), or {', '.join(PARTS)}",
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="for each case")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--inputs", type=int, default=1_000_000, help="of the case fuzz, which takes what it takes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    known = CASES | PARTS
    if unknown := set(options.cases) - set(known):
        parser.error(f"no such case: {', '.join(unknown)}")
    report: dict[str, object] = {"seed": options.seed, "seconds": options.seconds}
    failed = False
    rows: list[str] = []
    for name in options.cases or CASES:
        started = time.monotonic()
        try:
            more = {"inputs": options.inputs} if name in ("fuzz", *PARTS) else {}
            report[name] = asyncio.run(known[name](options.seconds, options.seed, **more))
        except* Exception as errors:
            failed = True
            report[name] = {
                "failed": [f"{type(error).__name__}: {error}"[:2000] for error in _leaves(errors)]
            }
        took = time.monotonic() - started
        print(f"{name}, seed {options.seed}, {took:.0f} s:", flush=True)
        print(json.dumps(report[name], indent=2), flush=True)
        rows.append(f"| `{name}`, {options.seed}, {took:.0f} | {_said(report[name])} |")
    print("\nFor docs/reliability.md:\n| case, seed, seconds | figures |\n| --- | --- |")
    print("\n".join(rows), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(failed)


def _said(figures: object, between: str = "; ") -> str:
    """Figures as a cell of a table."""
    match figures:
        case dict():
            parts = (
                f"{value:,} {name}" if isinstance(value, int) else f"{name}: {_said(value, ', ')}"
                for name, value in figures.items()
            )
            return between.join(parts)
        case list() | tuple():
            return " / ".join(map(_said, figures))
    return str(figures)


def _leaves(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    sys.exit(main())

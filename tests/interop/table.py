"""Writes what `make interop` measured, left in build/interop/report.json, into the table of docs/interop.md.

python -m tests.interop.table               what the last run measured
python -m tests.interop.table --measure     runs every client several times first, for a quiet machine
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys

from tests.interop.environments import BUILT, ROOT

REPORT = BUILT / "report.json"
DOCUMENT = ROOT / "docs" / "interop.md"
ROUNDS = 5
"""How often `--measure` drives a client whose waits count."""


def table() -> str:
    """The report as Markdown."""
    lines = [
        "| client | version | exercised | files | equal to `Recognize` | wait p50 / p95, ms | over asr.v1, ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    report = json.loads(REPORT.read_text())
    own = report.get("asr.v1", {})
    for key in sorted(report, key=lambda key: (key != "asr.v1", key)):
        row = report[key]
        package, _, release = next(
            iter(f"{name} {number}" for name, number in row["versions"].items())
        ).partition(" ")
        equal = {True: "yes", False: "no", None: "-"}[row.get("equal")]
        wait = over = "-"
        if "p50_ms" in row:
            wait = f"{row['p50_ms']:g} / {row['p95_ms']:g}"
            if row is not own and "p50_ms" in own:
                over = f"{row['p50_ms'] - own['p50_ms']:+.1f} / {row['p95_ms'] - own['p95_ms']:+.1f}"
        lines.append(
            f"| {package} | {release} | {row['what']} | {row['files']} | {equal} | {wait} | {over} |"
        )
    waits = sorted({row["waits"] for row in report.values() if "waits" in row})
    models = ", ".join(sorted({row.get("model", "not noted") for row in report.values()}))
    lines += [
        "",
        f"Model: {models}; {os.cpu_count()} CPU cores; {' or '.join(map(str, waits))} waits a line.",
    ]
    return "\n".join(lines) + "\n"


def measure() -> int:
    """Runs every client several times; the exit code of the tests, which have to pass for a table."""
    REPORT.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "tests/interop"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "INTEROP_ROUNDS": str(ROUNDS)}).returncode


def write_table() -> None:
    """Puts the report into the document."""
    text = DOCUMENT.read_text()
    places = r"(<!-- interop -->\n).*?(<!-- interop:end -->)"
    DOCUMENT.write_text(re.sub(places, lambda found: found[1] + table() + found[2], text, flags=re.DOTALL))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true", help="run all clients several times first")
    if parser.parse_args().measure and (code := measure()):
        return code
    write_table()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The settings tables of README.md, made from the settings themselves.

python tools/settings_tables.py           prints them
python tools/settings_tables.py --write   puts them between their marks in README.md
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from asr_common.settings import describe
from asr_service.config import Settings
from ws_bridge.config import Settings as BridgeSettings

README = Path(__file__).resolve().parent.parent / "README.md"


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| variable | default | what it trades |", "| --- | --- | --- |"]
    for name, default, text in rows:
        cells = (cell.replace("|", "\\|") for cell in (f"`{name}`", default, text))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def service() -> str:
    """Settings of the service."""
    return _table([(doc.variable, f"`{doc.default}`", doc.description) for doc in describe(Settings)])


def bridge() -> str:
    """Settings of the bridge."""
    return _table(
        [
            (doc.variable, doc.default if doc.default == "none" else f"`{doc.default}`", doc.description)
            for doc in describe(BridgeSettings)
        ]
    )


def updated(text: str) -> str:
    """The README's text with its tables as they should be."""
    for name, table in (("service", service()), ("bridge", bridge())):
        start, end = f"<!-- settings:{name} -->", "<!-- settings:end -->"
        pattern = re.compile(rf"{start}\n.*?{end}", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{README.name} has no {start} ... {end}")
        block = f"{start}\n{table}\n{end}"
        text = pattern.sub(lambda _, block=block: block, text, count=1)  # type: ignore[misc]
    return text


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="update README.md")
    if parser.parse_args().write:
        README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(f"{service()}\n\n{bridge()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

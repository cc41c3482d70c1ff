"""Makes the settings tables of docs/settings.md from the settings themselves.

python tools/settings_tables.py           prints them
python tools/settings_tables.py --write   writes them between their marks in docs/settings.md
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from pydantic_settings import BaseSettings

from asr_common.settings import describe
from asr_service.config import Settings
from ws_bridge.config import Settings as BridgeSettings

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
PROGRAMS: dict[str, type[BaseSettings]] = {"service": Settings, "bridge": BridgeSettings}
"""By the name that stands in the marks of the program's table."""


def table(settings: type[BaseSettings]) -> str:
    """Makes the table of a program's settings; defaults in words stand as words, not as code."""
    lines = ["| variable | default | what it trades |", "| --- | --- | --- |"]
    for doc in describe(settings):
        default = doc.default if doc.default == "none" or " " in doc.default else f"`{doc.default}`"
        cells = (cell.replace("|", "\\|") for cell in (f"`{doc.variable}`", default, doc.description))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def updated(text: str) -> str:
    """Returns the document's text with its tables as they should be.

    Raises:
        ValueError: a table has no marks.
    """
    for name, settings in PROGRAMS.items():
        start, end = f"<!-- settings:{name} -->", "<!-- settings:end -->"
        found = re.search(rf"{start}\n.*?{end}", text, re.DOTALL)
        if found is None:
            raise ValueError(f"{DOCUMENT.name} has no {start} ... {end}")
        text = f"{text[: found.start()]}{start}\n{table(settings)}\n{end}{text[found.end() :]}"
    return text


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="update docs/settings.md")
    if parser.parse_args().write:
        DOCUMENT.write_text(updated(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(table(settings) for settings in PROGRAMS.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

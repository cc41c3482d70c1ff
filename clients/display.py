"""Shows a transcript as it comes: an interim rewrites its line on a terminal, and has a line of its own elsewhere."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO


def in_brackets(*notes: str) -> str:
    """Gives what stands behind a final: the notes that are not empty; nothing if all are."""
    shown = ", ".join(filter(None, notes))
    return f"[{shown}]" if shown else ""


class LiveText:
    """Writes interims and finals to a stream of text."""

    def __init__(self, out: TextIO | None = None) -> None:
        """`out` is standard output if not given."""
        self._out = out or sys.stdout
        self._terminal = self._out.isatty()
        self._shown = ""

    def interim(self, text: str) -> None:
        """Shows the utterance so far; its end if it is longer than the line."""
        if text == self._shown:
            return
        self._shown = text
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            tail = text if len(text) <= width else "…" + text[1 - width :]
            self._write(f"\r\x1b[K\x1b[2m{tail}\x1b[0m")
        else:
            self._write(f"  ... {text}\n")

    def final(self, text: str, note: str = "") -> None:
        """Shows a finished utterance for good, with a note behind it."""
        start = "\r\x1b[K" if self._terminal else ""
        self._write(f"{start}{text}{'  ' + note if note else ''}\n")
        self._shown = ""

    def close(self) -> None:
        """Ends an interim's line, for what is printed next to start on its own."""
        if self._terminal and self._shown:
            self._write("\n")
        self._shown = ""

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

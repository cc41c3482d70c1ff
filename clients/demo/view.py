"""Shows texts that grow: as rows that rewrite themselves on a terminal, as lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo_model.wer import align

TAIL = 100
"""Characters of a long text that a line shows, from its end."""


class Rows:
    """Shows a row for each stream; a context manager."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        """`names` are shown before the texts."""
        self._console = console
        self._names = names
        self._texts = ["" for _ in names]
        self._final = [False for _ in names]
        self._live = (
            Live(self._table(), console=console, refresh_per_second=15) if console.is_terminal else None
        )

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column()
        for name, text, final in zip(self._names, self._texts, self._final, strict=True):
            table.add_row(f"  {name}", Text(text, style="" if final else "dim"))
        return table

    def interim(self, index: int, text: str) -> None:
        """Shows a row's text so far."""
        self._show(index, text, final=False)

    def final(self, index: int, text: str) -> None:
        """Shows a row's text that does not change again."""
        self._show(index, text, final=True)

    def _show(self, index: int, text: str, *, final: bool) -> None:
        if (text, final) == (self._texts[index], self._final[index]):
            return
        self._texts[index], self._final[index] = text, final
        if self._live is not None:
            self._live.update(self._table())
        else:
            mark = "=" if final else "…"
            self._console.print(
                f"  {self._names[index]:<8} {mark} {tail(text)}", markup=False, soft_wrap=True
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def tail(text: str) -> str:
    """Gives the end of a text, as much as a line shows."""
    return text if len(text) <= TAIL else "..." + text[-TAIL:]


def word_errors(said: str, heard: str) -> int:
    """Counts the fewest words to change, add or leave out to make one text of the other."""
    return len(align(said.split(), heard.split()).replace("=", ""))


def difference(said: str, heard: str) -> str:
    """Says in words how far a text is from what was said, which is not empty."""
    errors, count = word_errors(said, heard), len(said.split())
    return f"all {count} words right" if errors == 0 else f"{errors} word errors in {count} words"

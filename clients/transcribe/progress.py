"""Shows how far files are: a bar for each that runs and one for all on a terminal, lines elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Shown:
    """Shows the progress of files; a context manager. Lines that stay are those of files that are over."""

    def __init__(self, console: Console, count: int) -> None:
        """`count` files are to be shown."""
        self._console = console
        self._bars: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
            )
            self._bars = Progress(*columns, console=console, transient=True)
            self._all = self._bars.add_task(_files(count), total=count)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def line(self, text: str, style: str = "") -> None:
        """Writes a line that stays."""
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def begin(self, source: Path) -> FileShown:
        """Shows a file that is begun now."""
        task = None if self._bars is None else self._bars.add_task(escape(source.name), total=None)
        return FileShown(self, source, self._bars, task)

    def over(self) -> None:
        """Counts a file that is over."""
        if self._bars is not None:
            self._bars.advance(self._all)


class FileShown:
    """How far one file is."""

    def __init__(self, shown: Shown, source: Path, bars: Progress | None, task: TaskID | None) -> None:
        self._shown, self._source = shown, source
        self._bars, self._task = bars, task
        self._waits = False

    def start(self, duration_s: float | None) -> None:
        """Begins at the start of the file, which lasts so long as far as that is known."""
        self._waits = False
        if self._bars is not None and self._task is not None:
            name = escape(self._source.name)
            self._bars.reset(self._task, total=duration_s, description=name)

    def advance(self, seconds: float) -> None:
        """Goes on by so much audio."""
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, seconds)

    def wait(self, why: str) -> None:
        """Shows that the file waits for the service; as a line only once, however often it asks again."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, description=f"{escape(self._source.name)} [dim]waits[/dim]")
        elif not self._waits:
            self._shown.line(f"{self._source}: waits: {why}")
        self._waits = True

    def end(self, line: str, style: str = "") -> None:
        """Shows how it ended, if there is anything to say."""
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)
        if line:
            self._shown.line(line, style)
        self._shown.over()


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"

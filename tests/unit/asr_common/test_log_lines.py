"""Log lines in both formats, whoever writes them."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator

import pytest

from asr_common import log_lines


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    """Leaves the loggers as they were."""
    root, own = logging.getLogger(), logging.getLogger("a_program")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def test_json_is_one_object_a_line() -> None:
    out = io.StringIO()
    log_lines.set_up("a_program", "info", "json", out)
    logging.getLogger("a.b").info(
        "two\nlines of %s", "text", extra={"fields": {"stream": "x", "seconds": 1.5}}
    )
    logging.getLogger("a.b").debug("not shown")
    try:
        raise ValueError("what went wrong")
    except ValueError:
        logging.getLogger("a.b").exception("it failed")
    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert first["message"] == "two\nlines of text"
    assert (first["level"], first["logger"], first["stream"], first["seconds"]) == ("info", "a.b", "x", 1.5)
    assert "ValueError: what went wrong" in second["exception"]


def test_text_shows_fields() -> None:
    out = io.StringIO()
    log_lines.set_up("a_program", "warning", "text", out)
    logging.getLogger("a").warning("stream ended", extra={"fields": {"outcome": "ok"}})
    assert out.getvalue().endswith("WARNING a: stream ended outcome=ok\n")


def test_a_process_says_which_one_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "_process_fields", {})
    log_lines.name_process(engine=1)
    shown = []
    for form in ("text", "json"):
        out = io.StringIO()
        log_lines.set_up("a_program", "info", form, out)
        logging.getLogger("a").info("ready", extra={"fields": {"steps": 3}})
        logging.getLogger("a").info("another one's", extra={"fields": {"engine": 0}})
        shown.append(out.getvalue())
    assert [line.partition(": ")[2] for line in shown[0].splitlines()] == [
        "ready steps=3 engine=1",
        "another one's engine=0",
    ]
    assert [json.loads(line)["engine"] for line in shown[1].splitlines()] == [1, 0]


@pytest.mark.parametrize("formatter", [log_lines.TextFormatter(), log_lines.JsonFormatter()])
def test_times_are_utc_in_every_zone(formatter: logging.Formatter, monkeypatch: pytest.MonkeyPatch) -> None:
    record = logging.makeLogRecord({"name": "a", "msg": "told", "created": 0.25})
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert "1970-01-01T00:00:00.250+00:00" in formatter.format(record)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_libraries_do_not_talk_at_debug() -> None:
    out = io.StringIO()
    log_lines.set_up("a_program", "debug", "text", out)
    for name in ("a_program.anything", "a_library.anything"):
        for number, level in ((1, logging.DEBUG), (2, logging.INFO)):
            logging.getLogger(name).log(level, "number %d", number)
    shown = [line.partition(" a_")[2] for line in out.getvalue().splitlines()]
    assert shown == ["program.anything: number 1", "program.anything: number 2", "library.anything: number 2"]

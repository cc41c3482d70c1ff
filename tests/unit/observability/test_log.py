"""Log lines in both formats, and libraries kept quiet."""

from __future__ import annotations

import io
import json
import logging
import time
import warnings
from collections.abc import Iterator

import pytest

from asr_service.observability import log


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    """Leaves the root logger and the warning filters as they were."""
    root, own = logging.getLogger(), logging.getLogger("asr_service")
    handlers, levels = root.handlers[:], (root.level, own.level)
    with warnings.catch_warnings():
        yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def test_json_is_one_object_a_line() -> None:
    out = io.StringIO()
    log.set_up("info", "json", out)
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
    log.set_up("warning", "text", out)
    logging.getLogger("a").warning("stream ended", extra={"fields": {"outcome": "ok"}})
    assert out.getvalue().endswith("WARNING a: stream ended outcome=ok\n")


@pytest.mark.parametrize("formatter", [log.TextFormatter(), log.JsonFormatter()])
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
    log.set_up("debug", "text", out)
    for name in ("asr_service.anything", "a_library.anything"):
        for number, level in ((1, logging.DEBUG), (2, logging.INFO)):
            logging.getLogger(name).log(level, "number %d", number)
    shown = [
        line.partition(" asr_service.")[2] or line.partition(" a_")[2] for line in out.getvalue().splitlines()
    ]
    assert shown == ["anything: number 1", "anything: number 2", "library.anything: number 2"]


def test_third_parties_are_quiet_even_if_they_set_their_level_later() -> None:
    out = io.StringIO()
    log.set_up("info", "text", out)
    nemo = logging.getLogger("nemo_logger")
    nemo.setLevel(logging.DEBUG)
    nemo.warning("a notice")
    logging.getLogger("nv_one_logger.api").error("telemetry")
    with warnings.catch_warnings(record=True) as seen:
        log.quiet_third_party()
        warnings.warn("soon to be removed", FutureWarning, stacklevel=1)
        warnings.warn_explicit("soon to be removed", FutureWarning, "tasks.py", 1, module="nemo.core")
        assert not seen
        warnings.warn_explicit(
            "never awaited", RuntimeWarning, "call.py", 1, module="asr_service.api.stream_call"
        )
        assert [str(warning.message) for warning in seen] == ["never awaited"]
    nemo.error("a real error")
    assert "a notice" not in out.getvalue()
    assert "telemetry" not in out.getvalue()
    assert "a real error" in out.getvalue()

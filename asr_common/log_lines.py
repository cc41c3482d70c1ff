"""Log records as lines on stderr: text for people, or JSON for collectors. Audio and transcripts are never logged.

Values that belong to a record go into `extra={"fields": {...}}`; both formats show them. Of a program of several
processes, each may say which one it is.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

_process_fields: dict[str, object] = {}


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123+00:00 INFO    asr_service.app.wiring: message key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it if there is one."""
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {record.getMessage()}"
        for key, value in _fields(record).items():
            line += f" {key}={value}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the record's fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(_fields(record))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def set_up(package: str, level: str, form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Sends every record of `level` and above to `stream` (stderr); replaces what was set up before.

    Debug records are those of `package` only: libraries print what they handle, which may be headers, audio and texts.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("INFO" if level == "debug" else level.upper())
    logging.getLogger(package).setLevel(level.upper())


def name_process(**fields: object) -> None:
    """Adds fields to every record of this process from now on; a record's own fields go before them."""
    _process_fields.update(fields)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    own: dict[str, Any] = getattr(record, "fields", {})
    return own | {name: value for name, value in _process_fields.items() if name not in own}


def _time(record: logging.LogRecord) -> str:
    """When it happened, in UTC whatever the machine's zone is: logs of several machines are read together."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

"""Logging: one line a record on stderr, as text for people or as JSON for collectors.

Values that belong to a record go into `extra={"fields": {...}}`. Audio and text are never logged.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Literal


class _Lines(logging.Formatter):
    """The one formatter; `as_json` tells which of the two shapes."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One line, and in text the traceback below it."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        when = f"{stamp}.{int(record.created * 1000) % 1000:03d}+00:00"
        fields: dict[str, object] = getattr(record, "fields", {})
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._as_json:
            head = {"time": when, "level": record.levelname.lower(), "logger": record.name}
            tail = {"exception": trace} if trace else {}
            return json.dumps({**head, "message": record.getMessage(), **fields, **tail}, default=str)
        pairs = "".join(f" {key}={value}" for key, value in fields.items())
        return f"{when} {record.levelname:<7} {record.name}: {record.getMessage()}{pairs}" + (
            trace and f"\n{trace}"
        )


def set_up(level: str, form: Literal["text", "json"]) -> None:
    """Sends records of `level` and above to stderr.

    Debug records are our own only: libraries print what they handle, which may be headers, audio and texts.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(as_json=form == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("INFO" if level == "debug" else level.upper())
    logging.getLogger("ws_bridge").setLevel(level.upper())
    # The library tells of every handshake and of clients that break the protocol, in debug with every header and frame;
    # the bridge has its own line for them.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)

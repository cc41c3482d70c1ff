"""Logging of the bridge: `asr_common.log_lines`, and libraries kept quiet. Audio and text are never logged."""

from __future__ import annotations

import logging
from typing import Literal

from asr_common import log_lines


def set_up(level: str, form: Literal["text", "json"]) -> None:
    """Sends every record of `level` and above to stderr; debug records are the bridge's own only."""
    log_lines.set_up("ws_bridge", level, form)
    # The library tells of every handshake and of clients that break the protocol, in debug with every header and frame;
    # the bridge has its own line for them.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)

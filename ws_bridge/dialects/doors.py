"""The paths on which other protocols than the bridge's own are spoken."""

from __future__ import annotations

from collections.abc import Mapping

from ws_bridge.dialect import Door
from ws_bridge.dialects.deepgram.door import DeepgramDoor
from ws_bridge.dialects.openai.door import RealtimeDoor

_DOORS: Mapping[str, Door] = {"/v1/listen": DeepgramDoor(), "/v1/realtime": RealtimeDoor()}


def find_door(path: str) -> Door | None:
    """Returns what takes handshakes on this path; None where the bridge's own protocol is spoken."""
    return _DOORS.get(path.rstrip("/"))

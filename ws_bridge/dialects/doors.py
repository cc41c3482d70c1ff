"""The paths on which other protocols than the bridge's own are spoken, and on which recordings are taken."""

from __future__ import annotations

from collections.abc import Mapping

from ws_bridge.dialect import Door
from ws_bridge.dialects.deepgram.door import DeepgramDoor, DeepgramFileDoor
from ws_bridge.dialects.openai.door import RealtimeDoor, TranscriptionsDoor
from ws_bridge.dialects.twilio.stream import TwilioDoor
from ws_bridge.file_dialect import FileDoor

_DOORS: Mapping[str, Door] = {
    "/v1/listen": DeepgramDoor(),
    "/v1/realtime": RealtimeDoor(),
    "/twilio": TwilioDoor(),
}


_FILE_DOORS: Mapping[str, FileDoor] = {
    "/v1/listen": DeepgramFileDoor(),
    "/v1/audio/transcriptions": TranscriptionsDoor(),
}


def find_file_door(path: str) -> FileDoor | None:
    """Returns what takes recordings on this path; None if nothing does."""
    return _FILE_DOORS.get(path.rstrip("/"))


def find_door(path: str) -> Door | None:
    """Returns what takes handshakes on this path; None where the bridge's own protocol is spoken."""
    return _DOORS.get(path.rstrip("/"))

"""Failures as OpenAI's clients are told them. Pure."""

from __future__ import annotations

import json
from typing import Any

from ws_bridge.dialect import HttpAnswer
from ws_bridge.status import Failure, Vocabulary

WORDS = Vocabulary(
    {
        "sample_rate_hertz": "rate",
        "encoding": "format",
        "language_code": "language",
        "phrase_boosts": "keywords",
        "phrases": "keywords",
        "trailing_silence_ms": "silence_duration_ms",
    },
    "send it as header 'Authorization: Bearer KEY', or as subprotocol 'openai-insecure-api-key.KEY'",
    "send audio",
    "no audio within",
)
"""What OpenAI calls things."""

_TYPES = {
    "unauthenticated": "authentication_error",
    "permission_denied": "permission_error",
    "resource_exhausted": "rate_limit_error",
    "unavailable": "server_error",
    "internal": "server_error",
}
_CODES = {
    "invalid_argument": "invalid_value",
    "failed_precondition": "invalid_value",
    "unauthenticated": "invalid_api_key",
    "resource_exhausted": "rate_limit_exceeded",
    "deadline_exceeded": "session_expired",
    "unavailable": "service_unavailable",
    "internal": "internal_error",
}


def error_fields(failure: Failure, event_id: str | None) -> dict[str, Any]:
    """The error of an event; `event_id` is that of the client's event that it is about."""
    return _fields(failure) | {"event_id": event_id}


def refusal(failure: Failure) -> HttpAnswer:
    """OpenAI's error response."""
    body = json.dumps({"error": _fields(failure)}, ensure_ascii=False)
    return HttpAnswer(failure.http_status, body, retry_after_ms=failure.retry_after_ms)


def _fields(failure: Failure) -> dict[str, Any]:
    empty = failure.field == "input_audio_buffer"
    return {
        "type": _TYPES.get(failure.code, "invalid_request_error"),
        "code": "input_audio_buffer_commit_empty" if empty else _CODES.get(failure.code, failure.code),
        "message": failure.message,
        "param": None if empty else failure.field or None,
    }

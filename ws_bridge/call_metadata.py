"""What of a WebSocket handshake goes on to the service, as the metadata of the call."""

from __future__ import annotations

from websockets.datastructures import Headers

_TRACE_HEADERS = ("traceparent", "tracestate")


def credentials(key: str, headers: Headers) -> list[tuple[str, str]]:
    """Returns the client's API keys, the one in its messages and those in headers; the service is their judge."""
    values = [f"Bearer {key}"] if key else []
    values += headers.get_all("Authorization")
    return [("authorization", value) for value in values if value.isascii() and value.isprintable()]


def trace_context(headers: Headers) -> list[tuple[str, str]]:
    """Returns the trace that the client names (W3C Trace Context); the service makes the span."""
    found = [(name, headers.get_all(name)) for name in _TRACE_HEADERS]
    return [
        (name, values[0])
        for name, values in found
        if len(values) == 1 and values[0].isascii() and values[0].isprintable()
    ]

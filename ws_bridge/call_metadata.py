"""What of a WebSocket handshake goes on to the service, as the metadata of the call."""

from __future__ import annotations

from websockets.datastructures import Headers

from ws_bridge.protocol import Init

_TRACE_HEADERS = ("traceparent", "tracestate")


def credentials(init: Init | None, headers: Headers) -> list[tuple[str, str]]:
    """Returns the client's API keys, of which the service is the judge; `init` is None where there is no stream."""
    values = [f"Bearer {init.key}"] if init is not None and init.key else []
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

"""A request as the dialects see it: what a client says before its first message. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from websockets.datastructures import Headers


@dataclass(frozen=True, slots=True)
class Handshake:
    """The start of a request.

    Attributes:
        path: decoded, without a query.
        query: values by name, in their order.
        headers: of the request.
    """

    path: str
    query: Mapping[str, Sequence[str]]
    headers: Headers

    def last(self, name: str) -> str | None:
        """The last value of a parameter; None if there is none."""
        values = self.query.get(name)
        return values[-1] if values else None

    @property
    def subprotocols(self) -> list[str]:
        """What a WebSocket client offers, in its order."""
        offers = self.headers.get_all("Sec-WebSocket-Protocol")
        return [name.strip() for offer in offers for name in offer.split(",") if name.strip()]

    def authorization(self, *schemes: str) -> str:
        """The key in the first `Authorization` header with one of these schemes, in any case; "" if there is none."""
        for value in self.headers.get_all("Authorization"):
            scheme, _, key = value.strip().partition(" ")
            if scheme.lower() in schemes and key.strip():
                return key.strip()
        return ""


def read_handshake(target: str, headers: Headers) -> Handshake:
    """Reads a request's target and headers; both are as short as `ASR_BRIDGE_MAX_HEADER_BYTES` allows."""
    path, _, text = target.partition("?")
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        query.setdefault(name, []).append(value)
    return Handshake(unquote(path), query, headers)

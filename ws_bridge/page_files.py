"""The page that people speak into: the files of `page/`, read once, as HTTP answers.

A browser asks for them like for any other page; a WebSocket handshake at the same path is none of their business. The
headers keep whatever is not in these files from running or loading in the page, and the page out of other people's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        # WebSocket to the page's own host included.
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_ALWAYS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # A browser keeps the files and asks each time whether they are still the same: a new bridge has a new page at once.
    "Cache-Control": "no-cache",
    "Connection": "close",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    kind: str
    etag: str


class PageFiles:
    """Answers requests for the page and its parts."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Reads every file of the folder, which is not looked at again."""
        self._files = {
            f"/{path.name}": _File(body, _TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
            for path in sorted(folder.iterdir())
            if path.suffix in _TYPES
            for body in (path.read_bytes(),)
        }
        self._files["/"] = self._files[f"/{INDEX}"]

    def answer(self, request: Request) -> Response | None:
        """Returns the answer to a browser's request; None for a WebSocket handshake, whatever its path is.

        The body is there for HEAD too: whoever sends the answer leaves it out.
        """
        if wants_websocket(request.headers):
            return None
        found = self._files.get(request.path.partition("?")[0])
        if found is None:
            return _response(HTTPStatus.NOT_FOUND, b"there is no such page here; the transcript is at /\n")
        if request.method not in ("GET", "HEAD"):
            only = {"Allow": "GET, HEAD"}
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD are answered here\n", only)
        tag = {"ETag": found.etag}
        if found.etag in _etags(request.headers):
            return _response(HTTPStatus.NOT_MODIFIED, None, tag)
        return _response(HTTPStatus.OK, found.body, tag, found.kind)


def wants_websocket(headers: Headers) -> bool:
    """Whether a request asks for WebSocket, rightly or not: whether it is right is the library's to say."""
    return any("websocket" in value.lower() for value in headers.get_all("Upgrade"))


def _etags(headers: Headers) -> set[str]:
    """The versions of a file that the browser has. One that a proxy has compressed (`W/`) is the same to it."""
    given = ",".join(headers.get_all("If-None-Match")).split(",")
    return {tag.strip().removeprefix("W/") for tag in given}


def _response(
    status: HTTPStatus,
    body: bytes | None,
    more: Mapping[str, str] | None = None,
    kind: str = "text/plain; charset=utf-8",
) -> Response:
    headers = Headers({**_ALWAYS, **(more or {})})
    if body is not None:
        headers["Content-Type"] = kind
        headers["Content-Length"] = str(len(body))
    return Response(status.value, status.phrase, headers, body or b"")

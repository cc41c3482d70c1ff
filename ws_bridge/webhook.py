"""Posts messages to a webhook, one after the other, again where that may help."""

from __future__ import annotations

import asyncio
import logging
import ssl
from urllib.parse import urlsplit

import h11

log = logging.getLogger(__name__)

_PAUSES_S = (0.2, 1.0)
"""Before the second and the third attempt."""
_TIMEOUT_S = 5.0
_AGAIN = (408, 425, 429)


class Webhook:
    """Posts to one address.

    Args:
        url: http or https, as the settings let it pass.
        timeout_s: how long an attempt may take.

    Attributes:
        longest_s: how long `post` may take.
    """

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self.longest_s = (len(_PAUSES_S) + 1) * timeout_s + sum(_PAUSES_S)
        where = urlsplit(url)
        self._tls = ssl.create_default_context() if where.scheme == "https" else None
        self._host = where.hostname or ""
        self._port = where.port or (443 if self._tls else 80)
        self._named = where.netloc.rpartition("@")[2]
        self._target = (where.path or "/") + (f"?{where.query}" if where.query else "")

    async def post(self, text: str) -> None:
        """Posts JSON; a message that is not taken in three attempts is told in the log, and left."""
        problem = ""
        for pause_s in (*_PAUSES_S, None):
            try:
                async with asyncio.timeout(self._timeout_s):
                    status = await self._attempt(text.encode())
            except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
                problem = str(error) or type(error).__name__
            else:
                if 200 <= status < 300:
                    return
                problem = f"HTTP {status}"
                if status < 500 and status not in _AGAIN:
                    break
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        log.error("the webhook has not taken a message", extra={"fields": {"reason": problem}})

    async def _attempt(self, body: bytes) -> int:
        """Posts once; returns the status."""
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            http = h11.Connection(h11.CLIENT)
            headers = [
                ("Host", self._named),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            for event in (
                h11.Request(method="POST", target=self._target, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                writer.write(http.send(event) or b"")
            await writer.drain()
            while True:
                answer = http.next_event()
                if answer is h11.NEED_DATA:
                    http.receive_data(await reader.read(65_536))
                elif isinstance(answer, h11.Response):
                    return answer.status_code
                elif not isinstance(answer, h11.InformationalResponse):
                    raise ConnectionError("the connection ended before the response")
        finally:
            writer.close()

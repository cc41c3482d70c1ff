"""The bridge's pages over HTTP: the one to speak into, and what it is told before it connects."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from asr_service.access.api_keys import new_key
from testbed.processes import free_port
from tests.support.audio import speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, listen, talk
from tests.support.process import PATIENCE_S, AsrService
from ws_bridge.page_files import FOLDER

Answer = tuple[int, dict[str, str], bytes]


async def ask(bridge: Bridge, path: str, method: str = "GET", **headers: str) -> Answer:
    """Status, headers and body, with the names of headers in lower case."""

    def exchange() -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    return await asyncio.to_thread(exchange)


async def info(bridge: Bridge, **headers: str) -> tuple[int, dict[str, Any]]:
    status, told, body = await ask(bridge, "/info", **headers)
    assert (told["content-type"], told["cache-control"]) == ("application/json", "no-store")
    return status, json.loads(body)


async def test_a_browser_gets_the_page_where_other_clients_connect(service: AsrService) -> None:
    with Bridge(service.target) as bridge:
        await bridge.ready()
        status, headers, body = await ask(bridge, "/")
        assert (status, body) == (200, (FOLDER / "index.html").read_bytes())
        assert "script-src 'self'" in headers["content-security-policy"]
        assert (await ask(bridge, "/", **{"If-None-Match": headers["etag"]}))[0] == 304
        status, of_head, body = await ask(bridge, "/", "HEAD")
        assert (status, of_head, body) == (200, headers, b"")
        assert (await ask(bridge, "/healthz", "HEAD"))[::2] == (200, b"")
        assert (await ask(bridge, "/nothing"))[0] == 404
        assert (await ask(bridge, "/main.js", "DELETE"))[0] == 405
        for path in ("/", "/elsewhere"):
            async with connect(bridge.url + path, compression=None) as socket:
                for message in (INIT, speechlike(1.0), CLOSE):
                    await socket.send(message)
                heard = await listen(socket)
            assert (heard.code, heard.final["final"]) == (1000, True)


async def test_without_the_page_the_port_is_as_it_was(service: AsrService) -> None:
    with Bridge(service.target, ASR_BRIDGE_PAGE=0) as bridge:
        assert (await ask(bridge, "/"))[0] == 426
        assert (await ask(bridge, "/main.js"))[0] == 426
        await bridge.ready()
        assert (await info(bridge))[1]["service"]["model"] == "null"
        assert (await talk(bridge, [INIT, speechlike(1.0), CLOSE])).code == 1000


async def test_what_is_served_is_told() -> None:
    port = free_port()
    origins = "https://app.example.com, null"
    with Bridge(f"127.0.0.1:{port}", ASR_BRIDGE_ORIGINS=origins) as bridge:
        status, told = await info(bridge)
        assert (status, told["accepting"]) == (503, True)
        assert told["origins"] == ["https://app.example.com", "null"]
        assert (told["error"]["code"], told["error"]["retry_after_ms"]) == ("unavailable", 1000)
        with await asyncio.to_thread(lambda: AsrService(ASR_GRPC_PORT=port)) as service:
            await bridge.ready()
            status, told = await info(bridge)
            assert status == 200 and "error" not in told
            served = told["service"]
            assert (served["model"], served["model_sample_rate_hertz"]) == ("null", 16_000)
            assert {"look_ahead_ms", "languages", "takes_language", "default_language_code"} <= served.keys()
            # A service that has stopped to answer is as one that is away.
            os.kill(service.front_end, signal.SIGSTOP)
            status, told = await info(bridge)
            os.kill(service.front_end, signal.SIGCONT)
            assert (status, told["error"]["code"]) == (503, "unavailable")


async def test_a_key_is_asked_for_but_not_for_what_the_bridge_says_of_itself(tmp_path: Path) -> None:
    key, line = new_key("alice", 1)
    path = tmp_path / "keys"
    path.write_text(line)
    with AsrService(ASR_API_KEYS_FILE=path) as service, Bridge(service.target) as bridge:
        await bridge.ready()
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            status, told = await info(bridge, **headers)
            assert (status, told["error"]["code"], told["accepting"]) == (401, "unauthenticated", True)
            assert "service" not in told
        status, told = await info(bridge, Authorization=f"Bearer {key}")
        assert (status, told["service"]["model"]) == (200, "null")


async def test_a_bridge_that_takes_nobody_says_so(service: AsrService) -> None:
    with Bridge(service.target, ASR_BRIDGE_MAX_CONNECTIONS=1) as bridge:
        await bridge.ready()
        async with connect(bridge.url, compression=None) as socket:
            await socket.send(INIT)
            await socket.send(speechlike(1.0))
            await socket.recv()
            status, told = await info(bridge)
            assert (status, told["accepting"], told["reason"]) == (503, False, "too many connections")
            bridge.signal(signal.SIGTERM)
            await bridge.said("draining")
            status, told = await info(bridge)
            assert (status, told["accepting"], told["reason"]) == (503, False, "draining")
            assert (await ask(bridge, "/"))[0] == 200
            with pytest.raises(InvalidStatus, match="503"):
                await connect(bridge.url, compression=None)
            await socket.send(CLOSE)
            assert (await listen(socket)).code == 1000

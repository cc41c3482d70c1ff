"""The bridge between clients and a service that let in only whom they know."""

from __future__ import annotations

import contextlib
import json
import ssl
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from asr_service.access.api_keys import new_key
from tests.support.audio import speechlike
from tests.support.bridge import Bridge
from tests.support.certificates import Authority
from tests.support.process import AsrService

PCM = speechlike(1.0, seed=5)


async def last_word(bridge: Bridge, init: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """The last message of a stream."""
    said: dict[str, Any] = {}
    async with connect(bridge.url, **options) as socket:
        await socket.send(json.dumps({"op": "init", "sid": "s", "sr": 16_000} | (init or {})))
        await socket.send(PCM)
        await socket.send('{"op":"close"}')
        with contextlib.suppress(ConnectionClosedError):  # after an error
            async for message in socket:
                said = json.loads(message)
    return said


async def test_keys_are_passed_on(tmp_path: Path) -> None:
    key, line = new_key("alice", 1)
    path = tmp_path / "keys"
    path.write_text(line)
    with AsrService(ASR_API_KEYS_FILE=path) as service, Bridge(service.target) as bridge:
        await bridge.ready()
        header = {"Authorization": f"Bearer {key}"}
        for init, headers in (({}, header), ({"key": key}, {}), ({"key": "wrong"}, header)):
            said = await last_word(bridge, init, additional_headers=headers)
            assert said["op"] == "final" and said["text"]
        for init, headers in (({}, {}), ({"key": "wrong"}, {}), ({}, {"Authorization": "Basic x"})):
            said = await last_word(bridge, init, additional_headers=headers)
            assert (said["op"], said["code"]) == ("error", "unauthenticated")
            assert '"key":"KEY" in init' in said["message"]
        said = await last_word(bridge, {"key": "\n"})
        assert (said["code"], said["field"]) == ("invalid_argument", "key")
        assert service.stop() == 0
        assert bridge.stop() == 0
        assert key not in service.output + bridge.output


async def test_what_is_said_stays_out_of_the_logs_at_debug_too(tmp_path: Path) -> None:
    key, line = new_key("alice", 1)
    path = tmp_path / "keys"
    path.write_text(line)
    with (
        AsrService(ASR_API_KEYS_FILE=path, ASR_LOG_LEVEL="debug") as service,
        Bridge(service.target, ASR_LOG_LEVEL="debug") as bridge,
    ):
        await bridge.ready()
        header = {"Authorization": f"Bearer {key}", "X-Trace": "what-no-one-else-sends"}
        in_header = await last_word(bridge, additional_headers=header)
        in_init = await last_word(bridge, {"key": key, "phrases": ["hush hush"]})
        assert in_header["text"] and in_header["text"] == in_init["text"]
        assert service.stop() == 0
        assert bridge.stop() == 0
        output = service.output + bridge.output
    assert "stream ended" in service.output and "connection ended" in bridge.output
    for told in (key, header["X-Trace"], "hush", in_header["text"], PCM[:6].hex(" "), repr(PCM[:6])[2:-1]):
        assert told not in output


async def test_tls_on_both_sides(tmp_path: Path) -> None:
    """wss to the client, mutual TLS to the service; a new certificate of the port without a restart."""
    ca = Authority(tmp_path)
    cert, key = ca.issue("service")
    own, own_key = ca.issue("bridge")
    live, live_key = tmp_path / "live.pem", tmp_path / "live.key"
    first = ca.issue("first")
    live.write_bytes(first[0].read_bytes())
    live_key.write_bytes(first[1].read_bytes())
    trusted = ssl.create_default_context(cafile=str(ca.cert))
    with (
        AsrService(ASR_TLS_CERT=cert, ASR_TLS_KEY=key, ASR_TLS_CLIENT_CA=ca.cert) as service,
        Bridge(
            service.target,
            ASR_GRPC_CA=ca.cert,
            ASR_GRPC_CERT=own,
            ASR_GRPC_KEY=own_key,
            ASR_BRIDGE_TLS_CERT=live,
            ASR_BRIDGE_TLS_KEY=live_key,
        ) as bridge,
    ):
        url = f"wss://localhost:{bridge.port}"

        async def stream() -> str:
            """A stream's final, and the name of the certificate it met."""
            async with connect(url, ssl=trusted) as socket:
                shown: Any = socket.transport.get_extra_info("peercert")
                await socket.send('{"op":"init","sid":"s","interim":false}')
                await socket.send(PCM)
                await socket.send('{"op":"close"}')
                said = json.loads(await socket.recv())
            assert said["op"] == "final" and said["text"], said
            return str({name: value for group in shown["subject"] for name, value in group}["commonName"])

        await bridge.ready(trusted)
        assert await stream() == "first"
        second = ca.issue("second")
        live.write_bytes(second[0].read_bytes())
        await bridge.said("the certificate in use stays")
        assert await stream() == "first", "half a pair"
        live_key.write_bytes(second[1].read_bytes())
        await bridge.said("certificate read again")
        assert await stream() == "second"
        assert bridge.stop() == 0
        assert service.stop() == 0

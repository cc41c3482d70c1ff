"""The bridge between clients and a service that let in only whom they know."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from asr_service.access.api_keys import new_key
from tests.support.audio import speechlike
from tests.support.bridge import Bridge
from tests.support.certificates import Authority
from tests.support.process import PATIENCE_S, AsrService, run_python

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


class Relay:
    """Passes connections on to a service, and knows which of them are open.

    Attributes:
        port: of 127.0.0.1, to connect to.
    """

    def __init__(self, target: str) -> None:
        self._to = target.rpartition(":")
        self._open: list[asyncio.Event] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over = asyncio.Event()
        self._open.append(over)
        there = await asyncio.open_connection("127.0.0.1", int(self._to[2]))
        both = [asyncio.create_task(_pass_on(*ends)) for ends in ((reader, there[1]), (there[0], writer))]
        await asyncio.wait(both)
        over.set()

    @property
    def count(self) -> int:
        """How many there have been."""
        return len(self._open)

    async def until_over(self, number: int) -> None:
        """Returns once a connection has ended."""
        async with asyncio.timeout(PATIENCE_S):
            await self._open[number].wait()

    def is_over(self, number: int) -> bool:
        return self._open[number].is_set()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def relayed(target: str) -> AsyncIterator[Relay]:
    relay = Relay(target)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    async with server:
        relay.port = server.sockets[0].getsockname()[1]
        yield relay


async def test_the_services_authority_is_renewed_without_a_restart(tmp_path: Path) -> None:
    """Newcomers have connections with the new credentials; the stream that is open ends where it began."""
    live = {
        name: tmp_path / f"live-{name}" for name in ("ca", "service", "service-key", "bridge", "bridge-key")
    }

    def put(files: dict[str, Path]) -> None:
        for name, path in files.items():
            live[name].write_bytes(path.read_bytes())

    def issued(authority: Authority, name: str) -> dict[str, Path]:
        pairs = {who: authority.issue(f"{name}-{who}") for who in ("service", "bridge")}
        return {
            **{who: pair[0] for who, pair in pairs.items()},
            **{f"{who}-key": pair[1] for who, pair in pairs.items()},
            "ca": authority.cert,
        }

    old = Authority(tmp_path, "old")
    put(issued(old, "old"))
    with AsrService(
        ASR_TLS_CERT=live["service"], ASR_TLS_KEY=live["service-key"], ASR_TLS_CLIENT_CA=live["ca"]
    ) as service:
        async with relayed(service.target) as relay:
            settings = {
                "ASR_GRPC_CA": live["ca"],
                "ASR_GRPC_CERT": live["bridge"],
                "ASR_GRPC_KEY": live["bridge-key"],
                "ASR_BRIDGE_CHANNELS": 1,
            }
            bridge = await asyncio.to_thread(lambda: Bridge(f"localhost:{relay.port}", **settings))
            with bridge:
                await bridge.ready()
                async with connect(bridge.url) as first:
                    await first.send('{"op":"init","sid":"first"}')
                    await first.send(PCM)
                    await first.recv()
                    assert relay.count == 1

                    # Of a pair of files the key is another's.
                    live["bridge-key"].write_bytes(old.issue("other")[1].read_bytes())
                    await bridge.said("the credentials in use stay")
                    assert (await last_word(bridge))["text"]
                    assert relay.count == 1

                    put(issued(Authority(tmp_path, "new"), "new"))
                    await bridge.said("credentials for the service read again")
                    said = await last_word(bridge)
                    assert said["op"] == "final" and said["text"], said
                    assert relay.count > 1 and not relay.is_over(0)

                    await first.send(PCM)
                    await first.send('{"op":"close"}')
                    final = [json.loads(message) async for message in first][-1]
                    assert final["op"] == "final" and final["text"], final
                await relay.until_over(0)
                assert not relay.is_over(relay.count - 1)
                assert (await last_word(bridge))["text"]
                assert await asyncio.to_thread(bridge.stop) == 0


async def test_credentials_that_do_not_fit_are_told_at_the_start(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    (cert, _), (_, key) = ca.issue("one"), ca.issue("other")
    for settings, says in (
        ({"ASR_GRPC_CA": ca.cert, "ASR_GRPC_CERT": cert, "ASR_GRPC_KEY": key}, f"ASR_GRPC_CERT={cert}"),
        ({"ASR_GRPC_CA": key}, f"ASR_GRPC_CA={key}: not PEM files"),
        ({"ASR_GRPC_CA": tmp_path / "none"}, "No such file"),
        ({"ASR_GRPC_CERT": cert, "ASR_GRPC_KEY": key}, "need ASR_GRPC_CA"),
        ({"ASR_GRPC_CA": ca.cert, "ASR_GRPC_CERT": cert}, "go together"),
    ):
        ended = await asyncio.to_thread(run_python, "-m", "ws_bridge", ASR_PORT=0, **settings)
        assert ended.returncode == 2 and says in ended.stderr and "Traceback" not in ended.stderr

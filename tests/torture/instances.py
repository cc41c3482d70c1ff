"""Instances of the service behind Envoy, which finds them by name as it finds pods."""

from __future__ import annotations

import asyncio
import re
import struct
import time
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from testbed.processes import free_port
from tests.support import envoy
from tests.support.process import AsrService, ServerProcess
from tests.torture.streams import HOLD_S

NAME = "services.test"
"""What all instances are found by, as pods are by a headless service's name."""
SLOTS = 64
"""Of an instance, unless the test has it otherwise."""


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for addresses with those that it has, for a second at a time."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps what answers are sent with."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answers a question: IPv4 addresses, and none of IPv6."""
        end = data.index(0, 12) + 5
        asked = struct.unpack_from("!H", data, end - 4)[0]
        answers = self.addresses if asked == 1 else []
        header = data[:2] + struct.pack("!HHHHH", 0x8580, 1, len(answers), 0, 0)
        body = b"".join(
            struct.pack("!HHHIH4B", 0xC00C, 1, 1, 1, 4, *map(int, address.split("."))) for address in answers
        )
        assert self._transport is not None
        self._transport.sendto(header + data[12:end] + body, addr)

    async def listen(self) -> int:
        """Listens; returns its port."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return int(transport.get_extra_info("sockname")[1])

    def close(self) -> None:
        """Ends it."""
        if self._transport is not None:
            self._transport.close()


class Instances:
    """Envoy, the instances that it finds by name, and the name server.

    Attributes:
        services: that run, by number.
        lines: of the logs of all that have run.
        killed: instances that were killed, and when.
        changing: whether an event is under way.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._port = free_port()
        self._front = free_port()
        self.target = f"127.0.0.1:{self._front}"
        self.admin = envoy.Admin()
        self.names = NameServer()
        self.services: dict[int, AsrService] = {}
        self.ended: list[AsrService] = []
        self.killed: list[tuple[AsrService, float]] = []
        self.changing = True

    @staticmethod
    def host(number: int) -> str:
        """Address of an instance: one of its own, as a pod has."""
        return f"127.0.9.{number}"

    def address(self, number: int) -> str:
        """HOST:PORT of an instance; the port is that of all."""
        return f"{self.host(number)}:{self._port}"

    def start(self, number: int, slots: int = SLOTS) -> None:
        """Starts an instance, in place of the one that had this address."""
        if number in self.services:
            self.ended.append(self.services[number])
        self.services[number] = self._stack.enter_context(
            AsrService(
                ASR_HOST=self.host(number),
                ASR_GRPC_PORT=self._port,
                ASR_MAX_STREAMS=slots,
                ASR_MAX_LOAD=0,
                ASR_DRAIN_S=90,
            )
        )

    async def run(self) -> ServerProcess:
        """Starts Envoy, with the documented configuration but for the addresses and the name server."""
        nowhere = ("127.0.0.1", free_port())
        text = envoy.configuration(
            {50051: self._front, 8080: free_port()},
            self.admin.port,
            {
                ("service-1", 50051): (NAME, self._port),
                ("bridge-1", 8080): nowhere,
                ("bridge-2", 8080): nowhere,
            },
        )
        text, count = re.subn(r"\n.*address: service-2, .*", "", text)
        assert count == 1
        resolver = (
            "type: STRICT_DNS\n      typed_dns_resolver_config:\n"
            "        name: envoy.network.dns_resolver.cares\n        typed_config:\n"
            '          "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.'
            "CaresDnsResolverConfig\n          resolvers:\n"
            "            - socket_address: { address: 127.0.0.1, port_value: "
        )
        resolver += f"{await self.names.listen()} }}"
        path = self._folder / "envoy.yaml"
        path.write_text(text.replace("type: STRICT_DNS", resolver), encoding="utf-8")
        proxy = self._stack.enter_context(envoy.start(path))
        await envoy.wait_listening(proxy, self.admin)
        return proxy

    async def until_in(self, *numbers: int) -> None:
        """Waits until these instances, and no others, are sent newcomers."""
        wanted = {self.address(number) for number in numbers}
        async with asyncio.timeout(HOLD_S):
            while await asyncio.to_thread(self.admin.healthy, "services") != wanted:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)

    async def stop(self, number: int) -> None:
        """SIGTERM, and waits until it has ended in order."""
        self.services[number].signal()
        assert await asyncio.to_thread(self.services[number].wait) == 0

    def kill(self, number: int) -> None:
        """SIGKILL of its supervisor, with which its other processes end, in any order."""
        self.killed.append((self.services[number], time.monotonic()))
        self.services[number].kill()

    def placed(self) -> dict[str, tuple[int, int]]:
        """Streams and connections that Envoy has now at each instance, by HOST:PORT."""
        page = self.admin.get("/clusters")
        found: dict[str, dict[str, int]] = {}
        for address, name, value in re.findall(
            r"^services::(\S+)::(rq_active|cx_active)::(\d+)$", page, re.MULTILINE
        ):
            found.setdefault(address, {})[name] = int(value)
        return {address: (one["rq_active"], one["cx_active"]) for address, one in found.items()}

    def lives(self) -> list[AsrService]:
        """All instances that have run."""
        return [*self.ended, *self.services.values()]

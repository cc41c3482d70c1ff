"""A service of two engines and three front ends with a bridge before it, and what has to hold of it after a fault."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import re
import select
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from asr_service.access.api_keys import new_key
from testbed.processes import children_by_name, free_port
from tests.support.bridge import Bridge
from tests.support.process import AsrService
from tests.support.rpc import config
from tests.torture.streams import (
    HOLD_S,
    Behaviour,
    Client,
    Script,
    Watch,
    credentials,
    learn,
    make_scripts,
    over_websocket,
)
from ws_bridge.call import Call, Outcome

ENGINES, FRONT_ENDS = 2, 3
NAMES = {
    *(f"asr-engine-{number}" for number in range(ENGINES)),
    *(f"asr-front-{number}" for number in range(FRONT_ENDS)),
    "asr-metrics",
}
CHANNELS = 16
"""Connections of the crowd over gRPC: so many that all front ends have some of them."""
KEY_LIMIT = 5
"""Streams that the limited key may have open."""
_LIBC = ctypes.CDLL(None)
_PIDFD_GETFD = 438
FAULTS_TOLD = r"has ended by signal 9 \(SIGKILL\)|has given no sign of life|processes? that .* gone"
"""What the log says of faults that are made here; nothing else may be an error."""


class Many:
    """The running service.

    Attributes:
        service, bridge: their processes.
        settings: that another service in its place takes.
        slots: of each engine.
        scripts: whose finals are known.
        key, limited: API keys, without a limit and with `KEY_LIMIT`.
        killed: how many processes of each kind were killed.
        outcomes: of the streams of `crowd`.
    """

    def __init__(
        self, service: AsrService, bridge: Bridge, settings: dict[str, Any], keys: list[str]
    ) -> None:
        self.service, self.bridge, self.settings = service, bridge, settings
        self.slots: int = settings["ASR_MAX_STREAMS"]
        self.target = service.target
        self.watch = Watch(settings["ASR_METRICS_PORT"], service.pid)
        self.key, self.limited = keys
        self.scripts: list[Script] = []
        self.killed: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self._dead: set[int] = set()
        self._channels = self.connect(CHANNELS)
        self._open = {name: open_ends(pid) for name, pid in self.processes().items()}

    def connect(self, count: int) -> list[grpc.aio.Channel]:
        """Makes channels with a connection each, which front ends share by chance."""
        own = ("grpc.use_local_subchannel_pool", 1)
        return [grpc.aio.insecure_channel(self.target, options=(own,)) for _ in range(count)]

    # ------------------------------------------------------------------------------------------------- its processes

    def processes(self) -> dict[str, int]:
        """Process ids by name; the supervisor's is "asr"."""
        return {"asr": self.service.pid, **children_by_name(self.service.pid)}

    def living(self, kind: str) -> list[int]:
        """Process ids of a kind ("engine", "front", "metrics", "" for all) that nobody has killed."""
        named = children_by_name(self.service.pid).items()
        return [pid for name, pid in named if name.startswith(f"asr-{kind}") and pid not in self._dead]

    def kill(self, kind: str, pid: int) -> None:
        """Kills a process, which is to be started again."""
        self._dead.add(pid)
        self.killed[kind] += 1
        os.kill(pid, signal.SIGKILL)

    @property
    def hung(self) -> int:
        """How many processes the watchdog has found."""
        return sum("has given no sign of life" in line for line in list(self.service.lines))

    async def until_all_run(self) -> None:
        """Returns once all processes that have ended, or that hang, run again."""
        async with asyncio.timeout(HOLD_S):
            while not self._all_run():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)

    def _all_run(self) -> bool:
        lines = list(self.service.lines)

        def at(pattern: str) -> list[int]:
            return [number for number, line in enumerate(lines) if re.search(pattern, line)]

        ended = at(r"(engine|front end) \d.* has ended")
        again = at("everything runs again")
        if len(ended) != self.killed["engine"] + self.killed["front"] + self.hung:
            return False
        return (not ended or max(again, default=-1) > ended[-1]) and set(self.processes()) == {"asr", *NAMES}

    # ------------------------------------------------------------------------------------------------- its streams

    async def stream(self, number: int, rng: random.Random, *, pace: float = 0.0) -> str:
        """Runs a stream through one door or the other, by its number; returns its outcome."""
        script, pace = rng.choice(self.scripts), pace or rng.choice((1.0, 2.0, 4.0))
        if number % 2:
            return await over_websocket(self.bridge.url, script, pace, self.key)
        channel = self._channels[number // 2 % CHANNELS]
        return await Client(channel, script, rng, Behaviour(pace=pace), self.key).run()

    @asynccontextmanager
    async def crowd(
        self, streams: int, rng: random.Random, on_outcome: Callable[[str, float], None] = lambda *_: None
    ) -> AsyncIterator[None]:
        """Keeps so many streams open until it is left; then those that are open go on to their ends.

        Args:
            streams: half of them over each door.
            rng: chooses what they say.
            on_outcome: takes the outcome of each, and when it began.
        """
        is_over = asyncio.Event()

        async def worker(number: int) -> None:
            own = random.Random(rng.randrange(2**30))
            while not is_over.is_set():
                began = time.monotonic()
                outcome = await self.stream(number, own)
                self.outcomes[outcome] += 1
                on_outcome(outcome, began)
                if outcome != "exact":
                    await asyncio.sleep(own.uniform(0.05, 0.5))

        async with asyncio.TaskGroup() as group:
            for number in range(streams):
                group.create_task(worker(number))
            try:
                yield
            finally:
                is_over.set()

    async def hold(
        self, channels: Iterable[grpc.aio.Channel], key: str
    ) -> tuple[list[HeldStream], list[Outcome]]:
        """Opens a stream on each channel at once.

        Returns:
            Those that were admitted, which are kept open, and what the others were told.
        """

        async def start(channel: grpc.aio.Channel) -> HeldStream | Outcome:
            call = Call(asr_pb2_grpc.SpeechServiceStub(channel), credentials(key))
            await call.write(config())
            return HeldStream(call) if await call.admitted() else await call.outcome()

        async with asyncio.timeout(HOLD_S):
            begun = await asyncio.gather(*map(start, channels))
        return (
            [one for one in begun if isinstance(one, HeldStream)],
            [one for one in begun if isinstance(one, Outcome)],
        )

    # ------------------------------------------------------------------------------------------------- its books

    async def check(self) -> None:
        """Checks that nothing is left of what has happened: no stream, slot, permit, descriptor or piece of memory."""
        await self.until_all_run()
        await self.watch.until_empty()
        free = await self.watch.metric('asr_slots{state="free"}')
        assert free == ENGINES * self.slots, f"{free} of {ENGINES * self.slots} slots are free"
        channels = self.connect(2 * FRONT_ENDS)
        for channel in channels:
            stub = asr_pb2_grpc.SpeechServiceStub(channel)
            told = await stub.GetServiceInfo(pb.GetServiceInfoRequest(), metadata=credentials(self.key))
            assert (told.active_streams, told.max_streams) == (0, ENGINES * self.slots), told
        await self._check_permits(channels)
        for script in self.scripts[:2]:
            ended = await over_websocket(self.bridge.url, script, 4.0, self.key)
            assert ended == "exact", f"{ended} through the bridge"
            ended = await Client(channels[0], script, random.Random(0), Behaviour(), self.key).run()
            assert ended == "exact", f"{ended} over gRPC"
        for channel in channels:
            await channel.close()
        await self.watch.until_empty()
        for name, pid in self.processes().items():
            assert (found := open_ends(pid)) == self._open[name], (
                f"{name} has {found}, not {self._open[name]}"
            )
        self.check_log()

    async def _check_permits(self, channels: list[grpc.aio.Channel]) -> None:
        """Checks that the limited key may open as many streams as ever."""
        held, refused = await self.hold((channels * KEY_LIMIT)[: KEY_LIMIT + 3], self.limited)
        assert len(held) == KEY_LIMIT, f"{len(held)} streams of a key that may have {KEY_LIMIT}"
        assert all(one.number == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0] for one in refused), refused
        await let_go(held)

    async def end(self) -> None:
        """Ends the service and the bridge as an operator does."""
        assert await asyncio.to_thread(self.service.stop) == 0
        await self.end_bridge()

    async def end_bridge(self) -> None:
        """Ends the bridge, which nothing that happens to the service is to harm."""
        assert await asyncio.to_thread(self.bridge.stop) == 0
        assert "Traceback" not in self.bridge.output, self.bridge.output[-6000:]

    def check_log(self) -> None:
        """Checks that the log has no errors but those of processes that were killed."""
        for line in self.service.lines:
            is_error = re.search(r"Traceback| (ERROR|CRITICAL) ", line) and not re.search(FAULTS_TOLD, line)
            assert not is_error, f"{line}; all of it:\n{self.service.output[-6000:]}"


class HeldStream:
    """A stream that is kept open.

    Attributes:
        outcome: how it has ended.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self.outcome = asyncio.create_task(self._read())

    async def _read(self) -> Outcome:
        async for _ in self._call.responses():
            pass
        return await self._call.outcome()

    async def end(self) -> Outcome:
        """Ends it; returns how it has ended."""
        async with asyncio.timeout(HOLD_S):
            await self._call.half_close()
            return await self.outcome


async def let_go(streams: Iterable[HeldStream]) -> None:
    """Ends streams that were held, all of which are alive."""
    for outcome in await asyncio.gather(*(stream.end() for stream in streams)):
        assert outcome.ok, outcome


def open_ends(pid: int) -> dict[str, int]:
    """Counts what a process shares with others of its service: local sockets, and pools of samples that it sees."""
    local = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    sockets = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kind, _, inode = str(descriptor.readlink()).partition(":")
        except FileNotFoundError:
            continue
        sockets += kind == "socket" and inode.strip("[]") in local
    return {"sockets": sockets, "pools": Path(f"/proc/{pid}/maps").read_text().count("memfd:asr-samples")}


def full_links(pid: int) -> int:
    """Counts the local sockets of a process that take nothing more now; 0 where the system lets nobody look."""
    found = 0
    handle = os.pidfd_open(pid)
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if str(descriptor.readlink()).startswith("socket:"):
            copy = _LIBC.syscall(_PIDFD_GETFD, handle, int(descriptor.name), 0)
            if copy >= 0:
                with socket.socket(fileno=copy) as one:
                    found += one.family == socket.AF_UNIX and not select.select([], [one], [], 0)[1]
    os.close(handle)
    return found


@asynccontextmanager
async def many(
    rng: random.Random,
    *,
    slots: int = 200,
    longest_s: float = 2.5,
    scripts: list[Script] | None = None,
    **settings: Any,
) -> AsyncIterator[Many]:
    """Starts the service and the bridge, and ends them.

    Args:
        slots: of each engine.
        longest_s: longest segment of what clients say.
        scripts: what they say, unless it is made here.
        settings: of the service, besides these.
    """
    with tempfile.TemporaryDirectory() as folder:
        keys, lines = zip(new_key("any"), new_key("few", KEY_LIMIT), strict=True)
        file = Path(folder, "keys")
        await asyncio.to_thread(file.write_text, "\n".join(lines) + "\n")
        defaults: dict[str, Any] = {
            "RESTART_S": 0.05,
            "ASR_ENGINES": ENGINES,
            "ASR_THREADS": 1,
            "ASR_FRONT_ENDS": FRONT_ENDS,
            "ASR_MAX_STREAMS": slots,
            "ASR_MAX_LOAD": 0,
            "ASR_API_KEYS_FILE": file,
            "ASR_METRICS_PORT": free_port(),
            "ASR_GRPC_PORT": free_port(),
            "ASR_DRAIN_S": 30,
        }
        settings = defaults | settings
        with (
            AsrService(**settings, wait=False) as service,
            Bridge(await asyncio.to_thread(service.wait_ready), ASR_BRIDGE_CHANNELS=8) as bridge,
        ):
            await bridge.ready()
            it = Many(service, bridge, settings, list(keys))
            it.scripts = scripts or make_scripts(rng, 12, longest_s=longest_s)
            await learn(it.target, it.scripts, it.key)
            yield it

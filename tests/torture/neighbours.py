"""What clients, networks and crowds do to the streams beside them: cases 3, 6 and 7 of the fault suite."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from statistics import median, quantiles
from typing import Any

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from clients.pacing import duration_s, packets
from testbed.processes import free_port
from tests.support.audio import RATE, speechlike
from tests.support.process import AsrService, ServerProcess
from tests.support.rpc import Stub, audio, config, finalize, retry_after_s, until_active
from tests.torture.rude import COUNT, HERE
from tests.torture.streams import (
    Behaviour,
    Client,
    Watch,
    learn,
    make_scripts,
    shown,
)

PACKET_MS = 20
DEAD_S = 40.0
"""In which a peer that has vanished is found, as the service documents: 30 s of silence and 10 s for an answer."""
SLACK_S = 20.0
"""For a machine that is busy with other things; gRPC's own time for an answer would add 50 s."""


def p99_ms(seconds: list[float]) -> float:
    return round(1000 * quantiles(seconds, n=100)[98], 1)


async def turns(stub: Stub, ends: float, seed: int, waits: list[float]) -> None:
    """A live speaker who asks for a final every second; notes how long each took."""
    pcm = speechlike(1.0, seed=seed)
    loop = asyncio.get_running_loop()
    call = stub.Recognize()
    await call.write(config(interim_results=False))
    answers = aiter(call)
    if not any(key == "x-stream-id" for key, _ in await call.initial_metadata()):
        async for _ in answers:
            pass
        raise AssertionError("neither admitted nor refused")
    due = loop.time()
    while loop.time() < ends:
        for packet in packets(pcm, RATE, PACKET_MS):
            await call.write(audio(packet))
            due += duration_s(packet, RATE)
            await asyncio.sleep(due - loop.time())
        asked = loop.time()
        await call.write(finalize())
        await anext(answers)
        waits.append(loop.time() - asked)
        due = max(due, loop.time())
    await call.done_writing()
    async for _ in answers:
        pass


class Rude(ServerProcess):
    """The clients without manners; returns when all of them have been admitted."""

    def __init__(self, target: str) -> None:
        super().__init__(["-m", "tests.torture.rude", target])
        self.wait_started(HERE, count=COUNT)


async def manners(seconds: float, seed: int, *, streams: int = 10, worse: float = 1.2) -> dict[str, Any]:
    """Case 3: clients without manners change the others' p99 by less than a fifth.

    Rounds with and without them take turns, the first of a pair being now the one, now the other, and the medians of
    the rounds' p99 are compared: what else the machine does for a while falls into both, or into few rounds.
    """
    pairs = max(3, round(seconds / 60))
    rounds: dict[bool, list[list[float]]] = {False: [], True: []}
    with AsrService(ASR_MAX_STREAMS=32, ASR_MAX_LOAD=0) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            loop = asyncio.get_running_loop()
            for number in range(2 * pairs):
                beside = number % 4 in (1, 2)
                waits: list[float] = []
                with contextlib.ExitStack() as stack:
                    if beside:
                        stack.enter_context(await asyncio.to_thread(Rude, service.target))
                    ends = loop.time() + seconds / (2 * pairs)
                    async with asyncio.TaskGroup() as group:
                        for speaker in range(streams):
                            group.create_task(turns(stub, ends, seed + speaker, waits))
                await until_active(stub, 0)
                rounds[beside].append(waits)
        assert service.stop() == 0
    each = {beside: [p99_ms(waits) for waits in some] for beside, some in rounds.items()}
    all_of = {beside: p99_ms([wait for waits in some for wait in waits]) for beside, some in rounds.items()}
    alone, together = median(each[False]), median(each[True])
    figures = {
        "finals": sum(len(waits) for some in rounds.values() for waits in some),
        "rounds": 2 * pairs,
        "p99 ms alone, median of rounds": alone,
        "p99 ms beside, median of rounds": together,
        "change": f"{100 * (together / alone - 1):+.0f} %",
        "p99 ms of each round alone": each[False],
        "p99 ms of each round beside": each[True],
        "p99 ms of all finals, alone and beside": (all_of[False], all_of[True]),
    }
    assert together <= worse * alone, figures
    return figures


async def overload(seconds: float, seed: int) -> dict[str, Any]:
    """Case 7: twice as many clients as are sustained. Who is admitted keeps real time, who is refused is told when to
    come back.
    """
    rng = random.Random(seed)
    waits: list[float] = []
    outcomes: Counter[str] = Counter()
    with AsrService(FAULT="rows") as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            loop = asyncio.get_running_loop()
            sustained = (await stub.GetServiceInfo(pb.GetServiceInfoRequest())).max_streams
            ends = loop.time() + seconds

            async def client(number: int) -> None:
                while loop.time() < ends:
                    try:
                        await turns(stub, min(ends, loop.time() + rng.uniform(2, 10)), seed + number, waits)
                        outcomes["served"] += 1
                    except grpc.aio.AioRpcError as error:
                        full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                        outcomes["refused" if full else error.code().name.lower()] += 1
                        await asyncio.sleep(retry_after_s(error))

            async with asyncio.TaskGroup() as group:
                for number in range(2 * sustained):
                    group.create_task(client(number))
        assert service.stop() == 0
    assert set(outcomes) == {"served", "refused"}, shown(outcomes)
    p99 = p99_ms(waits)
    figures = {
        "sustained": sustained,
        "clients": 2 * sustained,
        "outcomes": shown(outcomes),
        "p99 ms": p99,
    }
    assert p99 < 1000, figures
    return figures


class Wire:
    """A connection between client and service that can be slow, and that can go silent without a word."""

    def __init__(self, target: str, delay_s: float) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._delay_s = delay_s
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def listen(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """From now on nothing passes, and nobody is told."""
        self._open.clear()

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, int(self._port))
        self._writers += [writer, back]
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await asyncio.sleep(self._delay_s)
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        if self._open.is_set():
            sink.close()


async def network(
    seconds: float, seed: int, *, streams: int = 8, keepalive_s: float | None = None
) -> dict[str, Any]:
    """Case 6: a slow connection changes no text; one that is cut in silence is found in the documented time, while one
    that says nothing for longer lives on.

    With `keepalive_s` the service waits for so long, and once more for an answer, in place of the documented times.
    """
    rng = random.Random(seed)
    port = free_port()
    dead_s = DEAD_S if keepalive_s is None else 2 * keepalive_s
    settings: dict[str, Any] = {} if keepalive_s is None else {"KEEPALIVE_S": keepalive_s}
    with AsrService(ASR_MAX_STREAMS=32, ASR_METRICS_PORT=port, ASR_MAX_LOAD=0, **settings) as service:
        scripts = make_scripts(rng, 4)
        await learn(service.target, scripts)
        wire = Wire(service.target, delay_s=0.15)
        slow = await wire.listen()
        outcomes: Counter[str] = Counter()
        async with grpc.aio.insecure_channel(slow) as channel:
            for _ in range(max(1, round(seconds / 60))):
                talks = [Client(channel, rng.choice(scripts), rng, Behaviour()).run() for _ in range(streams)]
                outcomes += Counter(await asyncio.gather(*talks))
            assert set(outcomes) == {"exact"}, shown(outcomes)
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            calls = [stub.Recognize() for _ in range(streams)]
            for call in calls:
                await call.write(config())
                await call.initial_metadata()
            watch = Watch(port, service.pid)
            async with grpc.aio.insecure_channel(service.target) as direct, asyncio.TaskGroup() as group:
                pause = Behaviour(stall_s=1.5 * dead_s)
                quiet = [
                    group.create_task(Client(direct, scripts[0], rng, pause).run()) for _ in range(streams)
                ]
                await watch.until("asr_streams_active", lambda active: active == 2 * streams)
                wire.cut()
                cut_at = time.monotonic()
                await watch.until("asr_streams_active", lambda active: active <= streams)
                found = time.monotonic() - cut_at
            assert {task.result() for task in quiet} == {"exact"}
            await watch.until_empty()
            for call in calls:
                call.cancel()
        await wire.close()
        assert service.stop() == 0
    assert found < dead_s + SLACK_S, f"dead peers were found after {found:.0f} s"
    return {"over 300 ms round trip": shown(outcomes), "cut streams given back after s": round(found, 1)}

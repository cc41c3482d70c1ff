"""The cases of the fault suite; each returns its figures."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from statistics import median
from typing import Any

import grpc.aio

from testbed.processes import free_port
from tests.support.audio import FULL_SCALE
from tests.support.bridge import Bridge
from tests.support.process import AsrService, ServerProcess
from tests.torture.deaths import drains, kills, kills_of_words, orphans, stops
from tests.torture.fleet import fleet
from tests.torture.fuzzing import conversations, fuzz
from tests.torture.neighbours import manners, network, overload
from tests.torture.shares import limits, room
from tests.torture.silence import silence
from tests.torture.streams import (
    Behaviour,
    Client,
    Script,
    Watch,
    any_behaviour,
    learn,
    make_scripts,
    over_websocket,
    serving,
    shown,
)


async def crowd(
    seconds: float, seed: int, *, streams: int = 200, memory_share: float = 0.02
) -> dict[str, Any]:
    """Case 1: streams that connect, cancel, stall and vanish at random, more of them than there are slots.

    Nothing may be lost, no text wrong, no slot leaked, and memory has to stay as it is once it is warm.
    """
    rng = random.Random(seed)
    port = free_port()
    slots = streams * 4 // 5
    with AsrService(ASR_MAX_STREAMS=slots, ASR_MAX_LOAD=0, ASR_METRICS_PORT=port, wait=False) as service:
        target = await asyncio.to_thread(service.wait_ready)
        watch = Watch(port, service.pid)
        scripts = make_scripts(rng, 12)
        await learn(target, scripts)
        outcomes: Counter[str] = Counter()
        resident: list[tuple[float, float]] = []
        shared = [grpc.aio.insecure_channel(target, options=(("n", n),)) for n in range(4)]
        started = time.monotonic()
        ends = started + seconds

        async def worker(number: int) -> None:
            own = random.Random(rng.randrange(2**30))
            while time.monotonic() < ends:
                how = any_behaviour(own)
                vanishing = how.leave == "vanish"
                channel = grpc.aio.insecure_channel(target) if vanishing else shared[number % len(shared)]
                outcome = await Client(channel, own.choice(scripts), own, how).run()
                if vanishing:
                    await channel.close()
                outcomes[outcome] += 1
                if outcome == "refused":
                    await asyncio.sleep(own.uniform(0.1, 1.0))

        async def weigh() -> None:
            while True:
                resident.append((time.monotonic() - started, watch.resident_mb()))
                await asyncio.sleep(max(0.1, seconds / 200))

        weighing = asyncio.create_task(weigh())
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(streams):
                    group.create_task(worker(number))
        finally:
            weighing.cancel()
        for channel in shared:
            await channel.close()
        await watch.until_empty()
        slots_back = await watch.metric('asr_slots{state="free"}')
        assert slots_back == slots, f"{slots_back} of {slots} slots are free"
        assert await serving(target)
        early = median(mb for at, mb in resident if seconds / 4 <= at < seconds / 2)
        late = median(mb for at, mb in resident if at >= 3 * seconds / 4)
        assert late <= early * (1 + memory_share), f"resident memory went from {early:.0f} to {late:.0f} MB"
        assert set(outcomes) <= {"exact", "refused", "cancel", "vanish"}, shown(outcomes)
        assert outcomes["exact"] and outcomes["cancel"] and outcomes["vanish"]
        assert service.stop() == 0
    return {
        "streams at once": streams,
        "outcomes": shown(outcomes),
        "wrong texts": 0,
        "slots leaked": 0,
        "resident MB, second and last quarter": (round(early, 1), round(late, 1)),
    }


async def killing(seconds: float, seed: int, *, streams: int = 12, pace: float = 1.0) -> dict[str, Any]:
    """Case 2: kill -9 of the service, of the bridge and of a client, at random moments, again and again.

    Every stream ends with its exact text or with an error; what is left comes back by itself.
    """
    rng = random.Random(seed)
    grpc_port, metrics_port = free_port(), free_port()
    settings: dict[str, Any] = {
        "ASR_GRPC_PORT": grpc_port,
        "ASR_METRICS_PORT": metrics_port,
        "ASR_MAX_STREAMS": 64,
        "ASR_MAX_LOAD": 0,
    }
    target = f"127.0.0.1:{grpc_port}"
    killed: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    recovery: list[float] = []
    scripts = make_scripts(rng, 6)
    ends = time.monotonic() + seconds
    service, bridge = AsrService(**settings), Bridge(target)
    try:
        await learn(target, scripts)
        await bridge.ready()
        while time.monotonic() < ends or len(killed) < 3:
            victim = ("service", "bridge", "client")[sum(killed.values()) % 3]
            async with asyncio.TaskGroup() as group:
                channel = grpc.aio.insecure_channel(target)
                talks = []
                for number in range(streams):
                    own, script = random.Random(rng.randrange(2**30)), rng.choice(scripts)
                    if number % 2:
                        talks.append(
                            group.create_task(Client(channel, script, own, Behaviour(pace=pace)).run())
                        )
                    else:
                        talks.append(group.create_task(over_websocket(bridge.url, script, pace)))
                client = ServerProcess(["-c", _ENDLESS, target])
                await asyncio.to_thread(client.wait_line, "admitted")
                await asyncio.sleep(rng.uniform(0.0, 2.0) / pace)
                dead: ServerProcess = {"service": service, "bridge": bridge, "client": client}[victim]
                dead.signal(signal.SIGKILL)
                dead.wait()
                died = time.monotonic()
                if victim == "service":
                    service = await asyncio.to_thread(lambda: AsrService(**settings))
                elif victim == "bridge":
                    bridge = Bridge(target)
                client.popen.kill()
                client.wait()
            await channel.close()
            await bridge.ready()
            # Whoever comes now is served, through both doors.
            for script in scripts[:2]:
                assert await over_websocket(bridge.url, script, pace) == "exact"
                async with grpc.aio.insecure_channel(target) as fresh:
                    assert await Client(fresh, script, rng, Behaviour()).run() == "exact"
            await Watch(metrics_port, service.pid).until_empty()
            recovery.append(time.monotonic() - died)
            killed[victim] += 1
            ended = Counter(talk.result() for talk in talks)
            if victim == "client":
                assert set(ended) == {"exact"}, f"a client's death was felt by others: {shown(ended)}"
            assert set(ended) <= {"exact", "unavailable", "cancelled", "lost"}, shown(ended)
            outcomes += ended
        assert service.stop() == 0
        assert bridge.stop() == 0
    finally:
        for process in (service, bridge):
            process.popen.kill()
            process.wait()
    return {
        "killed": shown(killed),
        "outcomes of streams beside": shown(outcomes),
        "back to normal after s, at most": round(max(recovery), 1),
    }


_ENDLESS = """
import sys, time, grpc
from asr.v1 import asr_pb2 as pb, asr_pb2_grpc
def requests():
    yield pb.RecognizeRequest(config=pb.RecognitionConfig())
    while True:
        yield pb.RecognizeRequest(audio=bytes(3200))
        time.sleep(0.1)
call = asr_pb2_grpc.SpeechServiceStub(grpc.insecure_channel(sys.argv[1])).Recognize(requests())
call.initial_metadata()
print('admitted')
for _ in call:
    pass
"""
"""A client that stays until it is killed."""


async def faults(seconds: float, seed: int, *, streams: int = 24) -> dict[str, Any]:
    """Case 4: steps that raise, that find no memory, that kill the engine's thread, that hang.

    Streams of the step get an error; the others their exact text; an engine that is gone ends its streams and is
    started again.
    """
    rng = random.Random(seed)
    figures: dict[str, Any] = {}
    for fault in ("raise", "memory", "die", "hang"):
        port = free_port()
        fatal = fault in ("die", "hang")
        with AsrService(
            FAULT=fault,
            ASR_MAX_STREAMS=64,
            ASR_MAX_BATCH=8,
            ASR_MAX_LOAD=0,
            ASR_WATCHDOG_S=2,
            ASR_METRICS_PORT=port,
            RESTART_S=0.1,
            wait=False,
        ) as service:
            target = await asyncio.to_thread(service.wait_ready)
            watch = Watch(port, service.pid)
            scripts = make_scripts(rng, 6)
            await learn(target, scripts)
            poisoned = Script([scripts[0].segments[0], FULL_SCALE], scripts[0].finals[:1])
            ends = time.monotonic() + seconds / 4
            outcomes: Counter[str] = Counter()
            poison: Counter[str] = Counter()
            for count in itertools.count(1):
                channel = grpc.aio.insecure_channel(target)
                bad = rng.randrange(streams)
                async with asyncio.TaskGroup() as group:
                    talks = [
                        group.create_task(
                            Client(
                                channel,
                                poisoned if number == bad and fault != "memory" else rng.choice(scripts),
                                random.Random(rng.randrange(2**30)),
                                Behaviour(pace=rng.choice((0.0, 2.0))),
                            ).run()
                        )
                        for number in range(streams)
                    ]
                await channel.close()
                for number, talk in enumerate(talks):
                    (poison if number == bad else outcomes)[talk.result()] += 1
                if fatal:
                    await asyncio.to_thread(service.wait_line, "everything runs again", count=count)
                await watch.until_empty()
                assert await serving(target)
                if time.monotonic() > ends:
                    break
            allowed = {"raise": {"exact", "internal"}, "memory": {"exact", "internal"}}
            assert set(outcomes) <= allowed.get(fault, {"exact", "unavailable"}), (fault, shown(outcomes))
            if fault == "raise":
                assert set(poison) == {"internal"}
            if fatal:
                assert set(poison) == {"unavailable"}
            assert service.stop() == 0
            figures[fault] = shown(outcomes + poison)
    return figures


CASES: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
    "crowd": crowd,
    "killing": killing,
    "manners": manners,
    "faults": faults,
    "network": network,
    "overload": overload,
    "fuzz": fuzz,
    "silence": silence,
    "kills": kills,
    "kills_of_words": kills_of_words,
    "room": room,
    "limits": limits,
    "stops": stops,
    "drains": drains,
    "orphans": orphans,
}
PARTS: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
    "strangers": conversations,
    "fleet": fleet,
}
"""Of a case, and one that needs Envoy: to be run alone, by name."""

"""A fleet behind Envoy, found by name, while its instances are restarted, killed, full, added and removed."""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from clients.pacing import duration_s
from tests.support.audio import RATE
from tests.support.rpc import audio, config, finalize
from tests.torture.instances import SLOTS, Instances
from tests.torture.streams import HOLD_S, Script, learn, make_scripts, shown
from ws_bridge.call import Call

FEW_SLOTS = 3
"""Of the instance that is full."""
ADDED = 5
"""The instance that is not there at the beginning, beside 1 to 4."""
CONNECTIONS = 8
"""Of clients."""
MOST_SPREAD = 20.0
"""Percent by which what an instance has, on average while nothing happens, may lie off the mean of all."""
BROKEN = {"unavailable", "internal", "cancelled", "unknown"}
"""How a stream may end whose instance was killed."""


@dataclass
class Told:
    """What a client heard: when it began, whether it was admitted, and how it ended."""

    name: str
    began: float
    admitted: bool
    outcome: str


async def speak(channel: grpc.aio.Channel, name: str, script: Script, rng: random.Random) -> Told:
    """A live stream of this name; a wrong text raises."""
    began = time.monotonic()
    call = Call(asr_pb2_grpc.SpeechServiceStub(channel))
    async with asyncio.timeout(HOLD_S):
        await call.write(config(stream_id=name))
        if not await call.admitted():
            return Told(name, began, False, _code(await call.outcome()))
        sending = asyncio.create_task(_send(call, script, rng))
        try:
            finals = [response.result async for response in call.responses() if response.result.is_final]
        finally:
            sending.cancel()
        ended = await call.outcome()
    # A front end that outlives its engine for a moment gives what there is as a last final.
    heard = [final.text for final in finals if final.final_reason != pb.FINAL_REASON_ENDED_BY_SERVER]
    script.check(heard, whole=ended.ok)
    return Told(name, began, True, "exact" if ended.ok else _code(ended))


def _code(outcome: Any) -> str:
    return next(code.name.lower() for code in grpc.StatusCode if code.value[0] == outcome.number)


async def _send(call: Call, script: Script, rng: random.Random) -> None:
    for piece in script.pieces(rng):
        if not await call.write(finalize() if piece is None else audio(piece)):
            return
        if piece is not None:
            await asyncio.sleep(duration_s(piece, RATE))
    await call.half_close()


async def fleet(
    seconds: float,
    seed: int,
    *,
    a_minute: float = 200.0,
    longest_s: float = 20.0,
    restarts: Sequence[int] = (1, 2, 3, 4),
    **_: object,
) -> dict[str, Any]:
    """Four instances under live streams, one after the other restarted; killed, full, added, removed.

    Every admitted stream ends exactly, but those of the instance that is killed; none is refused, but those that were
    on their way to that when it was; none is ever at two instances. A quarter of the time nothing happens, for the
    spread.

    Args:
        seconds: of the pauses between what happens.
        seed: of the streams.
        a_minute: streams that come.
        longest_s: of a stream's segments, of which it has three at most.
        restarts: instances that are restarted.
    """
    rng = random.Random(seed)
    told: list[Told] = []
    shares: list[dict[str, tuple[int, int]]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        behind = Instances(Path(folder), stack)
        stack.callback(behind.names.close)
        for number in range(1, 5):
            await asyncio.to_thread(behind.start, number)
        behind.names.addresses = [behind.host(number) for number in range(1, 5)]
        proxy = await behind.run()
        await behind.until_in(1, 2, 3, 4)
        scripts = make_scripts(rng, 12, longest_s=longest_s)
        await learn(behind.address(1), scripts)
        channels = [
            grpc.aio.insecure_channel(behind.target, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(CONNECTIONS)
        ]
        over = asyncio.Event()

        async def crowd() -> None:
            async with asyncio.TaskGroup() as group:
                count = 0
                while not over.is_set():
                    count += 1
                    own = random.Random(rng.randrange(2**30))
                    stream = speak(rng.choice(channels), f"stream-{count}", rng.choice(scripts), own)
                    group.create_task(stream).add_done_callback(lambda task: told.append(task.result()))
                    await asyncio.sleep(rng.expovariate(a_minute / 60))

        async def watch() -> None:
            while not over.is_set():
                if not behind.changing:
                    shares.append(await asyncio.to_thread(behind.placed))
                await asyncio.sleep(0.25)

        async with asyncio.TaskGroup() as group:
            group.create_task(crowd())
            group.create_task(watch())
            try:
                took = await _events(behind, seconds, restarts)
            finally:
                over.set()
        tried = behind.admin.counter("cluster.services.upstream_rq_retry")
        for channel in channels:
            await channel.close()
        for number in list(behind.services):
            await behind.stop(number)
        assert await asyncio.to_thread(proxy.stop) == 0
        figures = _check(behind, told) | {"refusals that Envoy tried elsewhere": tried}
    streams, connections = (
        [statistics.mean(share[address][kind] for share in shares) for address in shares[0]]
        for kind in (0, 1)
    )
    figures |= {"streams open at each of four, on average": [round(one, 1) for one in streams]}
    figures |= {"spread of these, percent": (apart := _spread(streams))}
    figures |= {"connections to each": [round(one, 1) for one in connections]}
    figures |= {"spread of connections, percent": (far := _spread(connections))}
    # Of few streams it tells nothing.
    assert statistics.mean(streams) < 5 or max(apart, far) <= MOST_SPREAD, figures
    return figures | {"seconds of each event": took}


def _spread(values: Sequence[float]) -> float:
    """By how many percent one of them lies off the mean at most."""
    middle = statistics.mean(values)
    return round(100 * max(abs(one - middle) for one in values) / middle, 1)


async def _events(behind: Instances, seconds: float, restarts: Sequence[int]) -> dict[str, float]:
    """What happens to the instances; how long each took. What is left of the time follows each."""
    took: dict[str, float] = {}

    async def pause(share: float) -> None:
        await asyncio.sleep(share * seconds)  # streams come and go

    async def event(name: str, what: Callable[[], Awaitable[None]], share: float) -> None:
        began = time.monotonic()
        await what()
        took[name] = round(time.monotonic() - began, 1)
        await pause(share)

    async def restart(number: int, slots: int = SLOTS) -> None:
        await behind.stop(number)
        await asyncio.to_thread(behind.start, number, slots)
        await behind.until_in(1, 2, 3, 4)

    async def kill() -> None:
        await asyncio.to_thread(behind.kill, 1)
        await behind.until_in(2, 3, 4)
        await asyncio.to_thread(behind.start, 1)
        await behind.until_in(1, 2, 3, 4)

    async def add() -> None:
        await asyncio.to_thread(behind.start, ADDED)
        behind.names.addresses.append(behind.host(ADDED))
        await behind.until_in(1, 2, 3, 4, ADDED)

    async def remove() -> None:
        behind.names.addresses.remove(behind.host(1))
        await behind.stop(1)
        behind.ended.append(behind.services.pop(1))
        await behind.until_in(2, 3, 4, ADDED)

    await pause(0.05)
    behind.changing = False
    await pause(0.25)
    behind.changing = True
    for number in restarts:
        await event(f"restart {number}", partial(restart, number), 0.05)
    await event("kill", kill, 0.1)
    await event("full", partial(restart, 2, FEW_SLOTS), 0.15)
    await event("add", add, 0.1)
    await event("remove", remove, 0.1)
    return took


def _check(behind: Instances, told: list[Told]) -> dict[str, Any]:
    """What the clients heard beside what the instances' logs say."""
    ((killed, killed_at),) = behind.killed
    ended: dict[str, list[str]] = {}
    at_killed: set[str] = set()
    for service in behind.lives():
        for name, outcome in re.findall(
            r"stream ended\b.*\bstream=(stream-\d+) outcome=(\w+)", service.output
        ):
            ended.setdefault(name, []).append(outcome)
            if service is killed:
                at_killed.add(name)
    twice = {name: outcomes for name, outcomes in ended.items() if len(outcomes) > 1}
    assert not twice, f"at more than one instance: {twice}"
    exact = [one for one in told if one.outcome == "exact"]
    assert all(ended.get(one.name) == ["ok"] for one in exact), (
        "an instance knows nothing of a stream it served"
    )
    broken = [one for one in told if one.admitted and one.outcome != "exact"]
    assert all(
        one.outcome in BROKEN and (one.name not in ended or one.name in at_killed) for one in broken
    ), broken
    refused = [one for one in told if not one.admitted]
    assert not any(one.name in ended for one in refused), "refused and served"
    # On its way when the instance was killed: Envoy cannot know whether it had been admitted, and does not try again.
    caught = [one for one in refused if abs(one.began - killed_at) < 5]
    assert len(caught) == len(refused), [one for one in refused if one not in caught]
    return {
        "streams": len(told),
        "exact": len(exact),
        "broken by the kill": shown(Counter(one.outcome for one in broken)),
        "refused while on their way to what was killed": len(caught),
        "refused otherwise": len(refused) - len(caught),
    }

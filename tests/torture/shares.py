"""How a service of many processes shares out what it has: slots over engines, and keys' limits over front ends."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import grpc.aio

from tests.torture.many import ENGINES, FRONT_ENDS, KEY_LIMIT, HeldStream, Many, let_go, many
from tests.torture.streams import Behaviour, Client, shown

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]


async def room(seconds: float, seed: int, *, slots: int = 100) -> dict[str, Any]:
    """Case 10: a full engine beside an empty one, again and again: nobody is refused while there is room.

    All engines are filled; one is killed, and its streams end; the rest of the streams fill the others, which is what
    newcomers find when it is there again.
    """
    rng = random.Random(seed)
    figures: Counter[str] = Counter()
    async with many(rng, slots=slots) as it:
        channels = it.connect(4 * FRONT_ENDS)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or not figures:
            held = await fill(it, channels, ENGINES * slots)
            it.kill("engine", rng.choice(it.living("engine")))
            await it.until_all_run()
            newcomers = await fill(it, channels, slots)
            outcomes = await asyncio.gather(*(stream.end() for stream in held))
            lost = [outcome for outcome in outcomes if not outcome.ok]
            assert len(lost) == slots and {outcome.number for outcome in lost} == {UNAVAILABLE}, lost
            await let_go(newcomers)
            await it.watch.until_empty()
            figures += Counter({"admitted": len(held) + len(newcomers), "lost with their engine": len(lost)})
        for channel in channels:
            await channel.close()
        await it.check()
        await it.end()
    return {"slots of each engine": slots, **figures, "refused while there was room": 0}


async def fill(it: Many, channels: list[grpc.aio.Channel], count: int) -> list[HeldStream]:
    """Opens so many streams at once, which has to leave no room: more are refused, with a time to come back."""
    held, refused = await it.hold((channels * count)[:count], it.key)
    assert not refused, f"{len(refused)} of {count} were refused: {refused[0]}"
    for channel in channels[:3]:
        late = await Client(channel, it.scripts[0], random.Random(0), Behaviour(), it.key).run()
        assert late == "refused", late
    return held


async def limits(seconds: float, seed: int, *, clients: int = 40) -> dict[str, Any]:
    """Case 11: a key's limit, raced for over all front ends.

    Never are more streams of the key open than it may have; as many as it may have are admitted when they come one
    after the other; and those of a front end that is killed are free again.
    """
    rng = random.Random(seed)
    figures: Counter[str] = Counter()
    async with many(rng) as it:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or not figures:
            channels = it.connect(6 * FRONT_ENDS)
            figures += await race(it, channels, rng, clients, min(10.0, seconds / 3))
            figures += await in_turn(it, channels, rng, min(10.0, seconds / 3))
            figures["free again with their front end"] += await lose_a_front_end(it, channels, rng)
            for channel in channels:
                await channel.close()
        await it.check()
        await it.end()
    return {"limit": KEY_LIMIT, **shown(figures), "front ends killed": it.killed["front"]}


async def race(
    it: Many, channels: list[grpc.aio.Channel], rng: random.Random, clients: int, seconds: float
) -> Counter[str]:
    """Clients that open and close streams as fast as they can, more of them than are admitted."""
    ends = time.monotonic() + seconds
    figures: Counter[str] = Counter()
    held = 0

    async def one(own: random.Random) -> None:
        nonlocal held
        admitted, refused = await it.hold([own.choice(channels)], it.limited)
        figures["refused in the race"] += len(refused)
        for stream in admitted:
            held += 1
            figures["admitted in the race"] += 1
            assert held <= KEY_LIMIT, f"{held} streams of a key that may have {KEY_LIMIT}"
            await asyncio.sleep(own.uniform(0.0, 0.05))
            held -= 1
            await let_go([stream])

    async def worker() -> None:
        own = random.Random(rng.randrange(2**30))
        while time.monotonic() < ends:
            await one(own)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(worker())
    return figures


async def in_turn(
    it: Many, channels: list[grpc.aio.Channel], rng: random.Random, seconds: float
) -> Counter[str]:
    """Streams one after the other beside as many as leave room for one: each has to be admitted."""
    held, refused = await it.hold(rng.sample(channels, KEY_LIMIT - 1), it.limited)
    assert not refused, "permits are missing"
    ends = time.monotonic() + seconds
    figures: Counter[str] = Counter()
    while time.monotonic() < ends:
        admitted, refused = await it.hold([rng.choice(channels)], it.limited)
        assert not refused, f"refused after {figures} although there is room: {refused[0]}"
        await let_go(admitted)
        figures["admitted in turn"] += 1
    await let_go(held)
    return figures


async def lose_a_front_end(it: Many, channels: list[grpc.aio.Channel], rng: random.Random) -> int:
    """Kills a front end under a key's streams: what it had is free again, and no more. Returns how many that were."""
    held, _ = await it.hold(channels[:KEY_LIMIT], it.limited)
    assert len(held) == KEY_LIMIT
    it.kill("front", rng.choice(it.living("front")))
    await it.until_all_run()
    others = it.connect(KEY_LIMIT + 1)
    newcomers, _ = await it.hold(others, it.limited)
    outcomes = [await stream.end() for stream in held]
    lost = [outcome for outcome in outcomes if not outcome.ok]
    assert all(outcome.number == UNAVAILABLE for outcome in lost), lost
    assert len(newcomers) == len(lost), f"{len(newcomers)} were admitted in place of {len(lost)}"
    await let_go(newcomers)
    for channel in others:
        await channel.close()
    return len(lost)

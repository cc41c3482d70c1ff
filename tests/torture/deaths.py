"""Processes of a service of many that are killed or stopped, under streams over both doors.

Every stream ends with its exact text, or is told that it is over: UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
import wave
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.process import ROOT, AsrService, gone
from tests.torture.many import Many, full_links, many
from tests.torture.streams import HOLD_S, Script, learn, over_websocket, shown

KINDS = ("engine", "front", "metrics")
ENOUGH = 10
"""Streams that have to begin and end well while a process is stopped: the others go on."""
CLIPS = ROOT / "asr_service/assets/clips"


async def kills(
    seconds: float,
    seed: int,
    *,
    streams: int = 200,
    model: str = "null",
    pause_s: float = 2.0,
    longest_s: float = 2.5,
) -> dict[str, Any]:
    """Case 9: kill -9 of engines, front ends and the process that answers scrapes, at random, again and again."""
    rng = random.Random(seed)
    scripts = spoken(rng, 8) if model == "demo" else None
    async with many(rng, longest_s=longest_s, scripts=scripts, ASR_MODEL=model) as it:
        ends = time.monotonic() + seconds
        async with it.crowd(streams, rng):
            while time.monotonic() < ends or len(it.killed) < len(KINDS):
                await asyncio.sleep(rng.uniform(0.0, pause_s))
                kind = rng.choice([kind for kind in KINDS if not it.killed[kind]] or KINDS)
                if living := it.living(kind):
                    it.kill(kind, rng.choice(living))
        await it.check()
        check_outcomes(it.outcomes)
        await it.end()
    return {"streams at once": streams, "killed": shown(it.killed), "outcomes": shown(it.outcomes)}


async def kills_of_words(seconds: float, seed: int) -> dict[str, Any]:
    """Case 9, with words: the same for the demo model, whose texts are of its state too."""
    return await kills(seconds, seed, streams=24, model="demo", pause_s=6.0)


def spoken(rng: random.Random, count: int) -> list[Script]:
    """Scripts of the demo model's clips, one or two of them each."""
    clips = [json.loads(line) for line in (CLIPS / "clips.jsonl").read_text().splitlines()]
    segments = []
    for clip in clips:
        with wave.open(str(CLIPS / clip["file"])) as wav:
            if wav.getframerate() == 16_000:
                segments.append(wav.readframes(wav.getnframes()))
    return [Script(rng.sample(segments, rng.choice((1, 2)))) for _ in range(count)]


def check_outcomes(outcomes: Counter[str]) -> None:
    assert set(outcomes) <= {"exact", "unavailable"}, shown(outcomes)
    assert outcomes["exact"], shown(outcomes)


async def stops(
    seconds: float,
    seed: int,
    *,
    streams: int = 100,
    kinds: Sequence[str] = ("front", "engine", "supervisor", "all"),
    watchdog_s: float = 5.0,
    longest_s: float = 2.5,
) -> dict[str, Any]:
    """Case 12: SIGSTOP of an engine, of a front end, of the supervisor, of all, while links hold next to nothing.

    Others go on meanwhile. A process that goes on again has lost nothing: answers that its link had no room for have
    waited, and so have chunks. One that does not is killed by the watchdog and started again.
    """
    rng = random.Random(seed)
    figures: Counter[str] = Counter()
    async with many(rng, longest_s=longest_s, ASR_WATCHDOG_S=watchdog_s, LINK_BYTES=2048) as it:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or not figures:
            for kind in kinds:
                figures += await stop_for_a_while(it, rng, streams, kind, watchdog_s)
            async with it.crowd(streams, rng):
                found = it.hung
                for kind in ("front", "engine"):
                    os.kill(rng.choice(it.living(kind)), signal.SIGSTOP)
                await until_hung(it, found + 2)
                await it.until_all_run()
            figures["stopped for good"] += 2
        await it.check()
        check_outcomes(it.outcomes)
        await it.end()
    return {"streams at once": streams, **figures, "outcomes": shown(it.outcomes)}


async def stop_for_a_while(
    it: Many, rng: random.Random, streams: int, kind: str, watchdog_s: float
) -> Counter[str]:
    """Stops a process until others have shown that they go on.

    All are stopped for longer than the watchdog waits: it may not take that for a hang.
    """
    before, found, enough = it.outcomes.copy(), it.hung, asyncio.Event()
    stopped_at = float("inf")
    well = 0

    def note(outcome: str, began: float) -> None:
        nonlocal well
        # Newcomers need the supervisor, which knows the limits of keys.
        well += outcome == "exact" and (began > stopped_at or kind == "supervisor")
        if well >= ENOUGH:
            enough.set()

    async with it.crowd(streams, rng, note):
        await asyncio.sleep(rng.uniform(0.5, 1.5))
        match kind:
            case "supervisor":
                stopped = [it.service.pid]
            case "all":
                stopped = [it.service.pid, *it.living("")]
            case _:
                stopped = [rng.choice(it.living(kind))]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        stopped_at, well = time.monotonic(), 0
        try:
            if kind == "all":
                await asyncio.sleep(1.5 * watchdog_s)
            else:
                await asyncio.wait_for(enough.wait(), HOLD_S)
            full = sum(map(full_links, it.living({"front": "engine", "engine": "front"}.get(kind, "-"))))
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    await it.until_all_run()
    if it.hung > found and kind != "all":
        # On a busy machine the watchdog may have been faster.
        return Counter()
    ended = it.outcomes - before
    assert set(ended) == {"exact"}, f"after a stop of {kind}: {shown(ended)}"
    return Counter({"stopped and continued": 1, "links that were full then": full})


async def until_hung(it: Many, count: int) -> None:
    """Returns once the watchdog has found so many processes."""
    async with asyncio.timeout(HOLD_S):
        while it.hung < count:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


async def drains(seconds: float, seed: int, *, streams: int = 60, longest_s: float = 2.5) -> dict[str, Any]:
    """Case 13: SIGTERM while an engine and a front end are killed, just before it or in it.

    Those that run end their streams in order; what was killed is not waited for; the exit code is 0.
    """
    rng = random.Random(seed)
    figures: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends or not figures:
        async with many(rng, longest_s=longest_s, RESTART_S=rng.choice((0.05, 0.3))) as it:
            outcomes += await drain(it, rng, streams)
            code = await asyncio.to_thread(it.service.wait)
            assert code == 0, f"{code}: {it.service.output[-6000:]}"
            it.check_log()
            await it.end_bridge()
            figures["drains"] += 1
            figures["killed"] += sum(it.killed.values())
    check_outcomes(outcomes)
    return {**figures, "outcomes of streams that were open": shown(outcomes)}


async def drain(it: Many, rng: random.Random, streams: int) -> Counter[str]:
    """Sends SIGTERM and kills an engine and a front end, in any order; returns how open streams have ended."""
    outcomes: Counter[str] = Counter()
    signalled_at = float("inf")

    def note(outcome: str, began: float) -> None:
        if time.monotonic() > signalled_at > began:
            outcomes[outcome] += 1

    async with it.crowd(streams, rng, note):
        await asyncio.sleep(rng.uniform(0.5, 1.5))
        faults = ["SIGTERM", "engine", "front"]
        rng.shuffle(faults)
        for fault in faults:
            if fault == "SIGTERM":
                it.service.signal(signal.SIGTERM)
                signalled_at = time.monotonic()
            elif living := it.living(fault):
                it.kill(fault, rng.choice(living))
            await asyncio.sleep(rng.choice((0.0, 0.1, 0.5)))
    return outcomes


async def orphans(seconds: float, seed: int, *, streams: int = 60, longest_s: float = 2.5) -> dict[str, Any]:
    """Case 14: kill -9 of the supervisor, also while a process is stopped or being started again.

    No process is left behind, and with them all memory that they shared goes, which has no name; the streams are told;
    another service takes the port, and the bridge finds it.
    """
    rng = random.Random(seed)
    figures: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends or not figures:
        mark = f"torture-{rng.randrange(2**60)}"
        async with many(rng, longest_s=longest_s, TORTURE_MARK=mark) as it:
            async with it.crowd(streams, rng):
                await asyncio.sleep(rng.uniform(0.5, 1.5))
                match rng.choice(("killed", "stopped", "quiet")):
                    case "killed":
                        kind = rng.choice(("engine", "front"))
                        it.kill(kind, rng.choice(it.living(kind)))
                        await asyncio.sleep(rng.uniform(0.0, 0.3))
                    case "stopped":
                        os.kill(rng.choice(it.living("")), signal.SIGSTOP)
                ours = marked(mark)
                assert len(ours) >= len(it.processes()) - 1
                assert not (named := [name for pid in ours for name in named_memory(pid)]), named
                it.service.kill()
                async with asyncio.timeout(HOLD_S):
                    while not all(map(gone, ours)) or marked(mark):  # noqa: ASYNC110 - other processes
                        await asyncio.sleep(0.01)
            outcomes += it.outcomes
            figures["supervisors killed"] += 1
            figures["processes that went with them"] += len(ours) - 1
            with await asyncio.to_thread(lambda settings: AsrService(**settings), it.settings) as heir:
                await it.bridge.ready()
                await learn(heir.target, it.scripts[:1], it.key)
                script = it.scripts[0]
                assert (ended := await over_websocket(it.bridge.url, script, 4.0, it.key)) == "exact", ended
                assert heir.stop() == 0
            await it.end_bridge()
    assert set(outcomes) <= {"exact", "unavailable"}, shown(outcomes)
    return {**figures, "processes left": 0, "outcomes": shown(outcomes)}


def marked(mark: str) -> list[int]:
    """Finds the processes that were started with this mark in their environment, however they are named."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def named_memory(pid: int) -> list[str]:
    """Lists memory that a process shares under a name that would outlive it."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line for line in lines if "/dev/shm" in line or "/SYSV" in line]

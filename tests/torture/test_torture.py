"""The fault suite in its short form; `make torture` is the full one."""

from __future__ import annotations

import sys

import pytest

from asr_service.api.listen import KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS
from tests.support.envoy import needs_envoy
from tests.torture.cases import crowd, faults, killing
from tests.torture.deaths import drains, kills, orphans, stops
from tests.torture.fleet import fleet
from tests.torture.fuzzing import fuzz
from tests.torture.neighbours import DEAD_S, network
from tests.torture.shares import limits, room
from tests.torture.silence import silence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


async def test_a_crowd_that_comes_and_goes() -> None:
    """In so little time memory is still warming up: its flatness is for the full form to show."""
    await crowd(20, seed=1, streams=200, memory_share=0.10)


@pytest.mark.usefixtures("compiled")
async def test_silence_has_no_words_and_leaves_nothing_behind() -> None:
    """Ten minutes of it; the full form takes an hour."""
    await silence(100, seed=0, megabytes=4)


async def test_killed_processes() -> None:
    await killing(1, seed=2, pace=3.0)


async def test_a_slow_connection_and_one_that_goes_silent() -> None:
    """The full form takes the 40 s in which the service promises to find a dead peer."""
    assert KEEPALIVE_MS + KEEPALIVE_TIMEOUT_MS == 1000 * DEAD_S
    await network(1, seed=4, keepalive_s=2)


async def test_injected_faults() -> None:
    await faults(5, seed=3)


async def test_killed_processes_of_many() -> None:
    await kills(2, seed=9, streams=60, pause_s=0.6, longest_s=0.5)


async def test_a_full_engine_beside_an_empty_one() -> None:
    await room(0, seed=10, slots=30)


async def test_a_keys_limit_raced_over_front_ends() -> None:
    await limits(0.5, seed=11, clients=10)


async def test_stopped_processes_of_many() -> None:
    await stops(0, seed=12, streams=40, kinds=("front", "engine"), watchdog_s=2.0, longest_s=0.5)


async def test_a_drain_with_a_restart_in_it() -> None:
    await drains(0, seed=13, streams=40, longest_s=0.5)


async def test_a_supervisor_that_is_killed_leaves_nothing_behind() -> None:
    await orphans(0, seed=14, streams=40, longest_s=0.5)


async def test_a_fleet_behind_envoy() -> None:
    """One of its instances is restarted; the full form restarts all, under streams as long as calls."""
    needs_envoy()
    await fleet(6, seed=15, a_minute=400, longest_s=1.0, restarts=(3,))


async def test_strangers_who_say_anything() -> None:
    """The parsers with structured input, and some conversations over sockets; the full form adds coverage."""
    await fuzz(0, seed=6, inputs=3_000, guided=False)

from __future__ import annotations

import asyncio

import pytest

from asr_service.access.api_keys import ApiKey
from asr_service.core.commands import Command, Ended, Open
from asr_service.core.errors import AtCapacity, QuotaReached, Unavailable
from asr_service.core.values import StreamConfig
from asr_service.observability.metrics import Metrics
from asr_service.sessions.admission import Admission
from asr_service.sessions.registry import SessionRegistry

CONFIG = StreamConfig("test")
ALICE = ApiKey("alice", b"", max_streams=2)
BOB = ApiKey("bob", b"")


class FrontEnd:
    """Admission to a few slots; the commands for the engine are collected."""

    def __init__(self, max_streams: int = 3) -> None:
        self.commands: list[Command] = []
        self.registry = SessionRegistry(
            self.commands.append, max_streams=max_streams, inbox_bytes=lambda _: 1_000
        )
        self.metrics = Metrics()
        self.admission = Admission(self.registry, self.metrics, idle_timeout_s=300, max_stream_s=0)
        self.admission.refusal = None

    def metric(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0

    def refusals(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("asr_refusals_total", {"reason": reason}) or 0.0


async def test_nobody_is_admitted_before_the_model_is_ready() -> None:
    end = FrontEnd()
    fresh = Admission(end.registry, end.metrics, idle_timeout_s=300, max_stream_s=0)
    with pytest.raises(Unavailable, match="the service is starting") as refused:
        fresh.admit(CONFIG)
    assert refused.value.retry_after_s
    assert (end.commands, fresh.open_calls, end.refusals("unavailable")) == ([], 0, 1)


async def test_a_call_of_two_channels_is_admitted_whole_or_not_at_all() -> None:
    end = FrontEnd(max_streams=3)
    first = end.admission.admit(CONFIG, channels=2)
    assert [type(command) for command in end.commands] == [Open, Open]
    with pytest.raises(AtCapacity):
        end.admission.admit(CONFIG, channels=2)
    assert len(end.commands) == 2 and end.registry.active == 2
    end.admission.admit(CONFIG)
    assert (end.admission.open_calls, end.refusals("at_capacity")) == (2, 1)
    assert end.metric("asr_streams_opened_total") == 2
    assert {session.key_name for session in first} == {""}


async def test_a_key_has_its_own_number_of_streams() -> None:
    end = FrontEnd()
    first, _ = (end.admission.admit(CONFIG, key=ALICE)[0] for _ in range(2))
    with pytest.raises(QuotaReached, match="all 2 streams of key 'alice' are open"):
        end.admission.admit(CONFIG, key=ALICE)
    assert end.admission.admit(CONFIG, key=BOB)[0].key_name == "bob"
    end.registry.deliver([Ended(first.id, None)])
    end.admission.admit(CONFIG, key=ALICE)
    assert end.refusals("quota_reached") == 1


async def test_drained_waits_for_the_last_call() -> None:
    end = FrontEnd()
    end.admission.admit(CONFIG)
    end.admission.admit(CONFIG)
    drained = asyncio.ensure_future(end.admission.drained())
    for _ in range(2):
        await asyncio.sleep(0)
        assert not drained.done()
        end.admission.leave()
    await drained
    assert end.admission.open_calls == 0
    await end.admission.drained()

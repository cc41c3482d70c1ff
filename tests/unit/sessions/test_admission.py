from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from asr_service.access.api_keys import ApiKey
from asr_service.core.errors import AsrError, AtCapacity, InternalError, Overloaded, QuotaReached, Unavailable
from asr_service.core.values import StreamConfig
from asr_service.model.null import NullModel
from asr_service.sessions.admission import Admission
from asr_service.sessions.session import Ended
from tests.support.desk import Desk, DeskLease, admission_to

CONFIG = StreamConfig("test")
ALICE = ApiKey("alice", b"", max_streams=2)
BOB = ApiKey("bob", b"")


def refusals(admission: Admission, reason: str) -> float:
    return admission.metrics.registry.get_sample_value("asr_refusals_total", {"reason": reason}) or 0.0


async def test_nobody_is_admitted_before_the_model_is_ready() -> None:
    desk = Desk()
    fresh = admission_to(desk, serving=False)
    with pytest.raises(Unavailable, match="the service is starting") as refused:
        await fresh.admit(CONFIG)
    assert refused.value.retry_after_s
    assert (desk.leases, fresh.open_calls, refusals(fresh, "unavailable")) == ([], 0, 1)


async def test_a_call_of_two_channels_is_admitted_whole_or_not_at_all() -> None:
    desk = Desk(slots=3)
    admission = admission_to(desk)
    first = await admission.admit(CONFIG, channels=2)
    with pytest.raises(AtCapacity, match=r"fewer than 2 of 3 streams are free$") as refused:
        await admission.admit(CONFIG, channels=2)
    assert refused.value.retry_after_s
    assert len(desk.leases) == 2 and admission.active == 2
    await admission.admit(CONFIG)
    assert (admission.open_calls, refusals(admission, "at_capacity")) == (2, 1)
    assert admission.metrics.registry.get_sample_value("asr_streams_opened_total") == 2
    assert {session.key_name for session in first} == {""}


async def test_a_slot_that_comes_back_is_anybodys() -> None:
    desk, counts = Desk(slots=1), list[int]()
    admission = admission_to(desk, on_count=counts.append)
    (first,) = await admission.admit(CONFIG)
    with pytest.raises(AtCapacity):
        await admission.admit(CONFIG)
    first.cancel()
    await admission.admit(CONFIG)
    assert counts == [1, 0, 1]


async def test_a_key_has_its_own_number_of_streams() -> None:
    admission = admission_to(Desk(slots=9))
    (first,), _ = [await admission.admit(CONFIG, key=ALICE) for _ in range(2)]
    with pytest.raises(QuotaReached, match="all 2 streams of key 'alice' are open"):
        await admission.admit(CONFIG, key=ALICE)
    (other,) = await admission.admit(CONFIG, key=BOB)
    assert other.key_name == "bob"
    first.cancel()
    await admission.check(CONFIG, key=ALICE)
    await admission.admit(CONFIG, key=ALICE)
    assert refusals(admission, "quota_reached") == 1


async def test_a_refused_call_keeps_no_permit() -> None:
    desk = Desk(slots=1)
    admission = admission_to(desk)
    (first,) = await admission.admit(CONFIG, key=ALICE)
    for _ in range(3):
        with pytest.raises(AtCapacity, match="all 1 streams"):
            await admission.admit(CONFIG, key=ALICE)
    first.cancel()
    await admission.admit(CONFIG, key=ALICE)


async def test_the_next_engine_is_tried_before_anybody_is_refused() -> None:
    full, roomy = Desk(slots=1), Desk(slots=1)
    admission = admission_to(full, roomy)
    full.refuse_with = AtCapacity("full")
    await admission.admit(CONFIG)
    assert (len(full.leases), len(roomy.leases)) == (0, 1)
    roomy.refuse_with = Unavailable("the engine has stopped")
    with pytest.raises(AtCapacity):
        await admission.admit(CONFIG)


async def test_a_refusal_counts_the_engines_that_fit_and_no_others() -> None:
    """Two of them serve what is asked for, one another look-ahead."""
    fit = [Desk(slots=1), Desk(slots=2)]
    other = Desk(model=NullModel(slots=9, att_context=(70, 13)))
    admission = admission_to(*fit, other)
    for _ in range(3):
        await admission.admit(CONFIG)
    for desk in fit:
        desk.numbers.leased = desk.numbers.limit
    for refused in (admission.admit, admission.check):
        with pytest.raises(AtCapacity, match=r"^all 3 streams are taken$"):
            await refused(CONFIG)
    with pytest.raises(AtCapacity, match="fewer than 3 of 3 streams are free in one engine"):
        await admission.admit(CONFIG, channels=3)
    await admission.admit(replace(CONFIG, look_ahead_ms=1040))
    assert [len(desk.leases) for desk in (*fit, other)] == [1, 2, 1]


async def test_the_engine_with_most_room_is_asked_first() -> None:
    busy, free = Desk(slots=4), Desk(slots=4)
    busy.numbers.leased = 2
    admission = admission_to(busy, free)
    await admission.admit(CONFIG)
    assert (len(busy.leases), len(free.leases)) == (0, 1)


async def test_an_engine_that_seems_to_hang_is_asked_last() -> None:
    """Whoever waits for it may wait until the watchdog kills it; it is asked all the same."""
    hanging, full = Desk(slots=4), Desk(slots=1)
    hanging.numbers.beat = 0.0
    admission = admission_to(hanging, full)
    await admission.admit(CONFIG)
    assert (len(hanging.leases), len(full.leases)) == (0, 1)
    await admission.admit(CONFIG)
    assert (len(hanging.leases), len(full.leases)) == (1, 1)


@pytest.mark.parametrize(
    ("refusal", "kind", "text"),
    [
        (Overloaded("x", facts={"load": "0.61"}), Overloaded, r"take 0\.61 times as long .* above 0\.5"),
        (Unavailable("the engine has stopped"), Unavailable, "the engine has stopped"),
    ],
)
async def test_why_engines_refuse_is_told(refusal: AsrError, kind: type[AsrError], text: str) -> None:
    desk = Desk()
    desk.refuse_with = refusal
    with pytest.raises(kind, match=text):
        await admission_to(desk, max_load=0.5).admit(CONFIG)


async def test_a_service_whose_engine_is_away_says_so() -> None:
    desk = Desk()
    admission = admission_to(desk)
    desk.is_open = False
    with pytest.raises(Unavailable, match="no engine for this stream runs now") as refused:
        await admission.admit(CONFIG)
    assert refused.value.retry_after_s


async def test_a_check_knows_what_is_full_or_too_busy() -> None:
    desk = Desk(slots=2)
    admission = admission_to(desk, max_load=0.5)
    await admission.check(CONFIG, 2)
    with pytest.raises(AtCapacity, match="fewer than 3 of 2 streams are free"):
        await admission.check(CONFIG, 3)
    # The engine tells of a stream that its client knows to be over: it is asked, and keeps nothing of it.
    desk.numbers.leased = 2
    await admission.check(CONFIG, 2)
    assert len(desk.free) == 2
    desk.numbers.leased = 0
    desk.numbers.load = 0.7
    with pytest.raises(Overloaded):
        await admission.check(CONFIG)
    assert admission.active == 0


async def test_a_call_that_is_cancelled_while_it_is_admitted_leaves_nothing() -> None:
    class Slow(Desk):
        async def lease(self, *arguments: object, **options: object) -> list[object]:  # type: ignore[override]
            await asyncio.Event().wait()
            raise AssertionError

    admission = admission_to(Slow())
    task = asyncio.ensure_future(admission.admit(CONFIG, key=ALICE))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (admission.active, admission.open_calls) == (0, 0)
    assert await admission._permits.ask("alice", 2, 2), "its permit is back"


async def test_all_can_be_ended_at_once() -> None:
    desk = Desk()
    admission = admission_to(desk)
    sessions = [(await admission.admit(CONFIG))[0] for _ in range(2)]
    error = InternalError("the engine has failed")
    admission.fail_all(error)
    assert [session.ended and session.ended.error for session in sessions] == [error, error]
    assert admission.active == 0
    assert all(lease.is_released for lease in desk.leases)


async def test_drained_waits_for_the_last_call() -> None:
    admission = admission_to(Desk())
    await admission.admit(CONFIG)
    await admission.admit(CONFIG)
    drained = asyncio.ensure_future(admission.drained())
    for _ in range(2):
        await asyncio.sleep(0)
        assert not drained.done()
        admission.leave()
    await drained
    assert admission.open_calls == 0
    await admission.drained()


async def test_an_engine_that_dies_while_it_admits_leaves_nothing() -> None:
    """Its link may end after its answer has come and before the caller goes on with it."""

    class Dying(Desk):
        async def lease(self, *arguments: Any, **options: Any) -> list[DeskLease]:
            leases = await super().lease(*arguments, **options)
            for lease in leases:
                lease.stream.lost(Unavailable("the engine has stopped"))
            return leases

    desk, counts = Dying(slots=9), list[int]()
    admission = admission_to(desk, on_count=counts.append)
    for _ in range(3):
        sessions = await admission.admit(CONFIG, channels=2, key=ALICE)
        for session in sessions:
            ended = await session.next()
            assert isinstance(ended, Ended) and isinstance(ended.error, Unavailable)
        assert admission.active == counts[-1] == 0
        admission.leave()
    assert all(lease.is_released for lease in desk.leases)

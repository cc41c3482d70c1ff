"""A session between its client and an engine that the test plays."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from asr_service.core.errors import InternalError, LimitReached, OutOfOrder, Unavailable
from asr_service.core.values import EndpointingConfig, FinalReason, Result, StreamConfig
from asr_service.sessions.session import MAX_OPEN_FINALIZES, Ended, Session
from tests.support.desk import Desk, DeskLease
from tests.support.streams import recognize, silence, speech

CONFIG = StreamConfig("test")
ENDED_BY_SERVER = FinalReason.ENDED_BY_SERVER


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def first_bytes(desk: Desk) -> int:
    """Bytes that complete the first chunk."""
    return 2 * desk.model.info.first_chunk_samples


@pytest.fixture
def chunk_bytes(desk: Desk) -> int:
    """Bytes of each chunk after it."""
    return 2 * desk.model.info.chunk_samples


async def is_blocked(task: asyncio.Future[Any]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


async def everything(session: Session) -> list[tuple[str, FinalReason | None]]:
    """The results up to the end."""
    found = []
    while isinstance(item := await session.next(), Result):
        found.append((item.text, item.reason))
    return found


def text_of(desk: Desk, data: bytes) -> str:
    return recognize(type(desk.model)(slots=1), data)[-1].text


# -------------------------------------------------------------------------------------------------- to the engine


async def test_chunks_go_out_as_soon_as_their_bytes_are_there_two_at_most(
    desk: Desk, first_bytes: int, chunk_bytes: int
) -> None:
    session, lease = desk.session()
    await session.send_audio(bytes(first_bytes - 1))
    assert lease.sent == 0
    await session.send_audio(b"\0")
    assert lease.sent == 1
    await session.send_audio(bytes(3 * chunk_bytes))
    assert lease.sent == 2, "one that is stepped, and one that waits"
    lease.answer()
    assert lease.sent == 3
    lease.answer_all()
    assert lease.sent == 4


async def test_where_the_next_chunk_ends_is_told(desk: Desk, first_bytes: int, chunk_bytes: int) -> None:
    session, _ = desk.session()
    assert session.next_chunk == (first_bytes, chunk_bytes)
    await session.send_audio(bytes(first_bytes + 5))
    assert session.next_chunk == (first_bytes + chunk_bytes, chunk_bytes)


async def test_a_finalize_flushes_what_came_before_it(desk: Desk) -> None:
    session, lease = desk.session()
    data = speech(0.05)
    await session.send_audio(data)
    session.finalize("turn")
    (chunk,) = lease.unanswered
    assert (len(chunk.samples), chunk.is_first, chunk.is_last) == (len(data) // 2, True, True)
    lease.answer()
    final = await session.next()
    assert isinstance(final, Result)
    assert (final.reason, final.tag, final.text) == (FinalReason.FINALIZE, "turn", text_of(desk, data))


async def test_the_slot_is_back_before_the_end_is_told(desk: Desk) -> None:
    session, lease = desk.session()
    seen: list[tuple[str, bool]] = []
    session.on_released = lambda _: seen.append(("released", lease.is_released))
    session.on_end = lambda _: seen.append(("ended", lease.is_released))
    session.half_close()
    session.half_close()
    assert seen == [("released", True), ("ended", True)]
    assert await everything(session) == [("", FinalReason.END_OF_STREAM)]
    assert await session.next() == await session.next() == Ended(None)


async def test_cancel_gives_the_slot_back_at_once(desk: Desk, first_bytes: int) -> None:
    session, lease = desk.session()
    await session.send_audio(bytes(first_bytes))
    session.cancel()
    session.cancel()
    assert lease.is_released
    lease.answer()
    assert await session.next() == Ended(None), "an answer that was on its way is nobody's"


async def test_an_end_before_the_lease_has_come_gives_that_back(desk: Desk) -> None:
    session, _ = desk.session()
    session.fail(Unavailable("gone"))
    again = DeskLease(desk, 1, session, -1)
    session.start(again)
    assert again.is_released


# -------------------------------------------------------------------------------------------------------------- inbox


async def test_the_sender_waits_above_the_high_water_mark(
    desk: Desk, first_bytes: int, chunk_bytes: int
) -> None:
    session, lease = desk.session(inbox_bytes=1_000)
    await session.send_audio(bytes(first_bytes + chunk_bytes + 1_000))
    assert lease.sent == 2
    sender = asyncio.ensure_future(session.send_audio(bytes(chunk_bytes - 500)))
    assert await is_blocked(sender)
    assert not session.takes_silence
    lease.answer()
    assert await is_blocked(sender) is False, "a chunk's bytes went out"
    await sender
    assert session.takes_silence


async def test_a_sender_that_waits_is_freed_by_the_end(desk: Desk) -> None:
    session, _ = desk.session(inbox_bytes=1_000)
    sender = asyncio.ensure_future(session.send_audio(bytes(50_000)))
    assert await is_blocked(sender)
    session.lost(InternalError("x"))
    await sender


async def test_a_sender_whose_task_was_cancelled_is_not_woken(desk: Desk) -> None:
    session, lease = desk.session(inbox_bytes=1_000)
    sender = asyncio.ensure_future(session.send_audio(bytes(13_500)))
    assert await is_blocked(sender)
    sender.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sender
    lease.answer_all()
    await session.send_audio(bytes(700))


async def test_input_after_half_close_is_refused(desk: Desk) -> None:
    session, lease = desk.session()
    await session.send_audio(bytes(100))
    session.half_close()
    with pytest.raises(OutOfOrder):
        await session.send_audio(b"..")
    with pytest.raises(OutOfOrder):
        session.finalize("")
    lease.answer_all()
    await session.send_audio(b"..")


async def test_finalizes_whose_finals_nobody_reads_are_limited(desk: Desk) -> None:
    session, _ = desk.session(max_unread=2 * MAX_OPEN_FINALIZES)
    for _ in range(MAX_OPEN_FINALIZES):
        session.finalize("")
    with pytest.raises(LimitReached, match="wait for their finals"):
        session.finalize("")
    await session.next()
    session.finalize("")


# ------------------------------------------------------------------------------------------------------------- outbox


async def test_the_latest_interim_replaces_the_one_before_it(desk: Desk) -> None:
    data = speech(0.7)
    session, lease = desk.session()
    await session.send_audio(data)
    lease.answer_all()
    interim = await session.next()
    assert isinstance(interim, Result)
    assert (interim.reason, interim.text) == (None, recognize(type(desk.model)(slots=1), data)[-2].text)
    assert session.coalesced == lease.sent - 1


async def test_a_final_replaces_its_interim_and_finals_are_all_kept(desk: Desk) -> None:
    session, lease = desk.session()
    parts = [speech(0.4, seed=seed) for seed in range(3)]
    for part in parts:
        await session.send_audio(part)
        session.finalize("")
        lease.answer_all()
    session.half_close()
    expected = [(text_of(desk, part), FinalReason.FINALIZE) for part in parts]
    assert await everything(session) == [*expected, ("", FinalReason.END_OF_STREAM)]


async def test_without_interims_none_is_told(desk: Desk) -> None:
    session, lease = desk.session(config=replace(CONFIG, interim_results=False))
    await session.send_audio(speech(0.5))
    lease.answer_all()
    receiver = asyncio.ensure_future(session.next())
    assert await is_blocked(receiver)
    session.half_close()
    lease.answer_all()
    assert (await receiver).reason is FinalReason.END_OF_STREAM  # type: ignore[union-attr]


async def test_a_receiver_that_waits_is_woken(desk: Desk, first_bytes: int) -> None:
    session, lease = desk.session()
    receiver = asyncio.ensure_future(session.next())
    await session.send_audio(speech(0.3)[:first_bytes])
    assert await is_blocked(receiver)
    lease.answer()
    assert isinstance(await receiver, Result)


# --------------------------------------------------------------------------------------- streams that the server ends


async def test_the_last_final_of_a_stream_that_the_server_ends(desk: Desk) -> None:
    """It is made of all that was sent; what comes later is dropped, and the end has the reason."""
    session, lease = desk.session()
    data, error = speech(0.4), Unavailable("draining")
    told: list[object] = []
    session.on_ending = told.append
    await session.send_audio(data)
    session.end(error)
    session.end(InternalError("later"))
    await session.send_audio(bytes(1_000_000))
    session.finalize("")
    session.half_close()
    lease.answer_all()
    assert await everything(session) == [(text_of(desk, data), ENDED_BY_SERVER)]
    assert await session.next() == Ended(error)
    assert told == [error]


async def test_a_last_final_without_text_is_not_told(desk: Desk) -> None:
    session, lease = desk.session()
    error = Unavailable("draining")
    await session.send_audio(silence(0.05))
    session.end(error)
    lease.answer_all()
    assert await session.next() == Ended(error)


async def test_a_client_that_has_half_closed_gets_what_it_waits_for(desk: Desk) -> None:
    session, lease = desk.session()
    data = speech(0.05)
    await session.send_audio(data)
    session.half_close()
    session.end(Unavailable("draining"))
    lease.answer_all()
    assert await everything(session) == [(text_of(desk, data), FinalReason.END_OF_STREAM)]
    assert await session.next() == Ended(None)


@pytest.mark.parametrize("interims", [True, False])
@pytest.mark.parametrize("fetched", [True, False])
async def test_an_engine_that_is_gone_leaves_what_was_heard(
    desk: Desk, interims: bool, fetched: bool
) -> None:
    """Whether the client asked for interims, and has fetched the newest, or not."""
    config = replace(CONFIG, interim_results=interims)
    session, lease = desk.session(config=config)
    error = Unavailable("the engine has stopped")
    await session.send_audio(speech(0.4))
    session.finalize("")
    lease.answer_all()
    data = speech(0.7, seed=1)
    await session.send_audio(data)
    lease.answer()
    lease.answer()
    heard = data[: 2 * (desk.model.info.first_chunk_samples + desk.model.info.chunk_samples)]
    if interims and fetched:
        await session.next()
        await session.next()
    session.lost(error)
    assert lease.is_released
    *_, last = await everything(session)
    interim = recognize(type(desk.model)(slots=1), heard)[-2]
    assert last == (interim.text, ENDED_BY_SERVER) and interim.reason is None
    assert await session.next() == Ended(error)


async def test_unread_finals_end_the_stream_with_all_of_them(desk: Desk) -> None:
    config = replace(CONFIG, endpointing=EndpointingConfig(200), interim_results=False)
    session, lease = desk.session(max_unread=3, config=config)
    for seed in range(5):
        await session.send_audio(speech(0.4, seed=seed) + silence(0.6))
        lease.answer_all()
    found = await everything(session)
    assert [reason for _, reason in found] == [FinalReason.ENDPOINT] * 4
    ended = await session.next()
    assert isinstance(ended, Ended) and isinstance(ended.error, LimitReached)


async def test_an_answer_that_makes_no_sense_ends_the_stream_with_a_bug(
    desk: Desk, first_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    session, lease = desk.session()
    await session.send_audio(bytes(first_bytes))
    session.answer([999_999], [0], [1.0], 2, 0.0)
    ended = await session.next()
    assert isinstance(ended, Ended) and isinstance(ended.error, InternalError)
    assert ended.error.request_id in caplog.text
    assert lease.is_released

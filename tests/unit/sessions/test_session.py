from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from asr_service.core.commands import Audio, Cancel, Command, Consumed, Ended, Finalize, HalfClose, Open
from asr_service.core.errors import (
    AtCapacity,
    InternalError,
    LimitReached,
    OutOfOrder,
    Overloaded,
    Unavailable,
)
from asr_service.core.values import FinalReason, Result, StreamConfig
from asr_service.sessions.registry import SessionRegistry
from asr_service.sessions.session import MAX_OPEN_FINALIZES, MAX_UNREAD, Session

CONFIG = StreamConfig("test")


class Desk:
    """Sessions whose commands are collected; the test plays the engine."""

    def __init__(self, max_streams: int = 2, inbox_bytes: int = 1_000) -> None:
        self.commands: list[Command] = []
        self.sessions = SessionRegistry(
            self.commands.append, max_streams=max_streams, inbox_bytes=lambda config: inbox_bytes
        )


@pytest.fixture
def desk() -> Desk:
    return Desk()


def result(stream: int, text: str, reason: FinalReason | None = None, utterance: int = 0) -> Result:
    return Result(stream, text, reason, utterance, (), 0.0, 0, "", 0)


async def is_blocked(task: asyncio.Future[Any]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


# ------------------------------------------------------------------------------------------------------------- permits


async def test_permits_come_back_when_the_engine_has_ended_the_stream(desk: Desk) -> None:
    first, second = desk.sessions.open(CONFIG), desk.sessions.open(CONFIG)
    assert desk.sessions.active == 2
    with pytest.raises(AtCapacity) as refused:
        desk.sessions.open(CONFIG)
    assert refused.value.retry_after_s
    first.cancel()
    assert desk.sessions.active == 2
    desk.sessions.deliver([Ended(first.id, None)])
    assert desk.sessions.active == 1
    third = desk.sessions.open(CONFIG)
    assert len({first.id, second.id, third.id}) == 3
    assert desk.commands == [
        Open(first.id, CONFIG), Open(second.id, CONFIG), Cancel(first.id), Open(third.id, CONFIG),
    ]  # fmt: skip


async def test_a_limit_that_falls_ends_no_stream_and_one_that_rises_admits_more(desk: Desk) -> None:
    sessions = desk.sessions
    first, second = sessions.open(CONFIG), sessions.open(CONFIG)
    sessions.max_streams = 1
    with pytest.raises(AtCapacity, match="all 1 streams are taken"):
        sessions.open(CONFIG)
    sessions.deliver([Ended(first.id, None)])
    with pytest.raises(AtCapacity):
        sessions.open(CONFIG)
    assert sessions.active == 1
    sessions.max_streams = 2
    sessions.open(CONFIG)
    assert Cancel(second.id) not in desk.commands


async def test_a_load_above_the_limit_is_told_with_both(desk: Desk) -> None:
    load = 0.5
    sessions = SessionRegistry(
        desk.commands.append, max_streams=2, inbox_bytes=lambda _: 1, load=lambda: load, max_load=0.5
    )
    sessions.open(CONFIG)
    load = 0.61
    with pytest.raises(
        Overloaded, match=r"take 0\.61 times as long as the audio they cover, above 0\.5"
    ) as refused:
        sessions.open(CONFIG)
    assert refused.value.retry_after_s
    load = 0.4
    sessions.open(CONFIG)


async def test_fail_all_ends_every_stream_at_once(desk: Desk) -> None:
    session, other = desk.sessions.open(CONFIG), desk.sessions.open(CONFIG)
    receiver = asyncio.ensure_future(session.next())
    await asyncio.sleep(0)
    sender = asyncio.ensure_future(other.send_audio(bytes(5_000)))
    assert await is_blocked(sender)
    error = InternalError("the engine has failed")
    desk.sessions.fail_all(error)
    assert await receiver == Ended(session.id, error)
    assert await other.next() == Ended(other.id, error)
    await sender
    assert desk.sessions.active == 0
    assert desk.commands[-2:] == [Cancel(session.id), Cancel(other.id)]
    desk.sessions.deliver([Ended(session.id, None), result(other.id, "late"), Consumed(other.id, 5)])
    assert await session.next() == Ended(session.id, error)
    await session.send_audio(b"..")
    session.finalize("")
    session.cancel()
    assert len(desk.commands) == 5


# -------------------------------------------------------------------------------------------------------------- inbox


async def test_commands_keep_their_order(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    await session.send_audio(b"ab")
    session.finalize("t")
    await session.send_audio(b"")
    await session.send_audio(b"c")
    session.half_close()
    session.half_close()
    expected = [
        Audio(session.id, b"ab"),
        Finalize(session.id, "t"),
        Audio(session.id, b"c"),
        HalfClose(session.id),
    ]
    assert desk.commands[1:] == expected


async def test_the_sender_waits_above_the_high_water_mark(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    await session.send_audio(bytes(1_000))
    sender = asyncio.ensure_future(session.send_audio(bytes(500)))
    assert await is_blocked(sender)
    desk.sessions.deliver([Consumed(session.id, 499)])
    assert await is_blocked(sender)
    desk.sessions.deliver([Consumed(session.id, 1)])
    await sender


async def test_a_sender_that_waits_is_freed_by_the_end(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    sender = asyncio.ensure_future(session.send_audio(bytes(5_000)))
    assert await is_blocked(sender)
    desk.sessions.deliver([Ended(session.id, InternalError("x"))])
    await sender


async def test_a_sender_whose_task_was_cancelled_is_not_woken(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    sender = asyncio.ensure_future(session.send_audio(bytes(5_000)))
    assert await is_blocked(sender)
    sender.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sender
    desk.sessions.deliver([Consumed(session.id, 5_000)])
    await session.send_audio(bytes(1_000))


async def test_input_after_half_close_is_refused(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    session.half_close()
    with pytest.raises(OutOfOrder):
        await session.send_audio(b"..")
    with pytest.raises(OutOfOrder):
        session.finalize("")


async def test_finalizes_whose_finals_nobody_reads_are_limited(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    for _ in range(MAX_OPEN_FINALIZES):
        session.finalize("")
    with pytest.raises(LimitReached, match="wait for their finals"):
        session.finalize("")
    desk.sessions.deliver(
        [result(session.id, "", FinalReason.FINALIZE), result(session.id, "", FinalReason.ENDPOINT)]
    )
    with pytest.raises(LimitReached):
        session.finalize("")
    await session.next()
    session.finalize("")


# ------------------------------------------------------------------------------------------------------------- outbox


async def texts(session: Session) -> list[str]:
    found = []
    while isinstance(item := await session.next(), Result):
        found.append(item.text)
    return found


async def test_the_latest_interim_replaces_the_one_before_it(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    desk.sessions.deliver([result(session.id, "a"), result(session.id, "a b"), Consumed(session.id, 5)])
    desk.sessions.deliver([result(session.id, "a b c")])
    desk.sessions.deliver([Ended(session.id, None)])
    assert await texts(session) == ["a b c"]
    assert session.coalesced == 2


async def test_a_final_replaces_its_interim_and_finals_are_all_kept(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    for utterance in range(3):
        desk.sessions.deliver([result(session.id, f"interim {utterance}", None, utterance)])
        desk.sessions.deliver([result(session.id, f"final {utterance}", FinalReason.ENDPOINT, utterance)])
    desk.sessions.deliver([result(session.id, "interim 3", None, 3)])
    desk.sessions.deliver([Ended(session.id, None)])
    assert await texts(session) == ["final 0", "final 1", "final 2", "interim 3"]


async def test_the_end_comes_after_all_finals_and_stays(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    error = InternalError("x")
    desk.sessions.deliver([result(session.id, "last", FinalReason.FINALIZE), Ended(session.id, error)])
    assert await texts(session) == ["last"]
    assert await session.next() == await session.next() == Ended(session.id, error)


async def test_a_receiver_that_waits_is_woken(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    receiver = asyncio.ensure_future(session.next())
    assert await is_blocked(receiver)
    desk.sessions.deliver([Consumed(session.id, 0)])
    assert await is_blocked(receiver)
    desk.sessions.deliver([result(session.id, "a")])
    assert await receiver == result(session.id, "a")


async def test_events_of_unknown_streams_are_ignored(desk: Desk) -> None:
    desk.sessions.deliver([result(77, "x"), Consumed(77, 1), Ended(77, None)])
    assert desk.sessions.active == 0


# --------------------------------------------------------------------------------------- streams that the server ends


ENDED_BY_SERVER = FinalReason.ENDED_BY_SERVER


async def everything(session: Session) -> list[tuple[str, FinalReason | None]]:
    """The results up to the end."""
    found = []
    while isinstance(item := await session.next(), Result):
        found.append((item.text, item.reason))
    return found


async def test_the_last_final_of_a_stream_that_the_server_ends(desk: Desk) -> None:
    """The engine makes it of all that was sent; what comes later is dropped, and the end has the reason."""
    session, error = desk.sessions.open(CONFIG), Unavailable("draining")
    await session.send_audio(b"..")
    desk.sessions.end_all(error)
    session.end(InternalError("later"))
    assert desk.commands[-2:] == [Audio(session.id, b".."), HalfClose(session.id, by_server=True)]
    await session.send_audio(bytes(1_000_000))
    session.finalize("")
    session.half_close()
    assert len(desk.commands) == 3
    desk.sessions.deliver([result(session.id, "a"), result(session.id, "a b", ENDED_BY_SERVER)])
    desk.sessions.deliver([Ended(session.id, None)])
    assert await everything(session) == [("a b", ENDED_BY_SERVER)]
    assert await session.next() == Ended(session.id, error)


async def test_a_last_final_without_text_is_not_told(desk: Desk) -> None:
    session, error = desk.sessions.open(CONFIG), Unavailable("draining")
    session.end(error)
    desk.sessions.deliver([result(session.id, "", ENDED_BY_SERVER), Ended(session.id, None)])
    assert await session.next() == Ended(session.id, error)


async def test_a_client_that_has_half_closed_gets_what_it_waits_for(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    session.half_close()
    session.end(Unavailable("draining"))
    desk.sessions.deliver([result(session.id, "a", FinalReason.END_OF_STREAM), Ended(session.id, None)])
    assert await everything(session) == [("a", FinalReason.END_OF_STREAM)]
    assert await session.next() == Ended(session.id, None)


@pytest.mark.parametrize("interims", [True, False])
@pytest.mark.parametrize("gone", [True, False])
async def test_an_engine_that_fails_leaves_its_newest_interim(desk: Desk, interims: bool, gone: bool) -> None:
    """Whether the client asked for interims, and has fetched it, or not; whether the engine or one step has failed."""
    session = desk.sessions.open(replace(CONFIG, interim_results=interims))
    error = Unavailable("the engine has stopped")
    desk.sessions.deliver(
        [result(session.id, "one", FinalReason.FINALIZE), result(session.id, "two", None, 1)]
    )
    assert (await session.next()).text == "one"  # type: ignore[union-attr]
    if interims:
        assert (await session.next()).text == "two"  # type: ignore[union-attr]
    desk.sessions.deliver([result(session.id, "two three", None, 1)])
    if gone:
        desk.sessions.fail_all(error)
    else:
        desk.sessions.deliver([Ended(session.id, error)])
    last = await session.next()
    assert isinstance(last, Result)
    assert (last.text, last.reason, last.utterance) == ("two three", ENDED_BY_SERVER, 1)
    assert await session.next() == Ended(session.id, error)


async def test_unread_finals_end_the_stream_with_all_of_them(desk: Desk) -> None:
    session = desk.sessions.open(CONFIG)
    for utterance in range(MAX_UNREAD + 1):
        desk.sessions.deliver([result(session.id, "a", FinalReason.ENDPOINT, utterance)])
    assert desk.commands[-1] == HalfClose(session.id, by_server=True)
    desk.sessions.deliver([result(session.id, "b", ENDED_BY_SERVER), Ended(session.id, None)])
    assert [text for text, _ in await everything(session)] == ["a"] * (MAX_UNREAD + 1) + ["b"]
    ended = await session.next()
    assert isinstance(ended, Ended) and isinstance(ended.error, LimitReached)

"""The outbox: the latest interim wins, finals are never dropped, order is kept."""

from __future__ import annotations

import asyncio
import sys

import pytest
from asr.v1 import asr_pb2
from hypothesis import given
from hypothesis import strategies as st

from ws_bridge.outbox import Outbox, Told
from ws_bridge.status import Refused


def put(box: Outbox, text: str, final: bool, channel: int = 0) -> None:
    box.put(response(text, final, channel), (text,) if final else ())


def response(text: str, final: bool, channel: int = 0) -> asr_pb2.RecognizeResponse:
    result = asr_pb2.RecognitionResult(text=text, is_final=final, channel=channel)
    return asr_pb2.RecognizeResponse(result=result)


async def taken(box: Outbox) -> list[str]:
    box.close()
    texts: list[str] = []
    while (item := await box.next()) is not None:
        texts += item.messages if isinstance(item, Told) else [item.result.text]
    return texts


async def test_latest_interim_wins_and_a_final_takes_its_place() -> None:
    box = Outbox(10)
    for text, final in [
        ("a", False),
        ("b", False),
        ("B", True),
        ("c", False),
        ("C", True),
        ("d", False),
        ("e", False),
    ]:
        put(box, text, final)
    assert await taken(box) == ["B", "C", "e"]
    assert box.skipped == 4


async def test_each_channel_has_its_own_interim() -> None:
    box = Outbox(10)
    for text, final, channel in [("a", False, 0), ("x", False, 1), ("A", True, 0), ("y", False, 1)]:
        put(box, text, final, channel)
    assert await taken(box) == ["A", "y"]
    assert box.skipped == 2


async def test_a_reply_keeps_its_place_and_takes_no_interims_away() -> None:
    box = Outbox(3)
    put(box, "A", True)
    put(box, "b", False)
    box.reply("told")
    put(box, "C", True, 1)
    with pytest.raises(Refused):
        box.reply("one more")
    assert await taken(box) == ["A", "told", "C", "b"]
    assert box.skipped == 0


async def test_too_many_finals_unread() -> None:
    box = Outbox(2)
    put(box, "A", True)
    put(box, "B", True)
    put(box, "c", False)
    with pytest.raises(Refused) as caught:
        put(box, "C", True)
    assert (caught.value.failure.code, caught.value.failure.close_code) == ("resource_exhausted", 1008)
    assert await taken(box) == ["A", "B"]


@given(st.lists(st.one_of(st.integers(0, 3_000), st.just("read")), max_size=60))
def test_messages_that_wait_are_bounded_in_bytes_as_in_number(steps: list[int | str]) -> None:
    """Replies of a client's own choosing count as finals do; only one may go beyond the bound."""

    async def run() -> None:
        box, waiting = Outbox(1_000_000, 5_000), list[str]()
        for step in steps:
            if step == "read":
                if waiting:
                    item = await box.next()
                    assert isinstance(item, Told) and item.messages == (waiting.pop(0),)
                continue
            message = "x" * int(step)
            is_full = sum(map(sys.getsizeof, waiting)) >= 5_000
            if is_full:
                with pytest.raises(Refused):
                    box.reply(message)
            else:
                box.reply(message)
                waiting.append(message)
        assert box.waiting == len(waiting)
        assert await taken(box) == waiting

    asyncio.run(run())


async def test_the_last_messages_of_a_stream_are_added_however_large_they_are() -> None:
    box = Outbox(10, 100)
    for text in ("A" * 1_000, "B"):
        box.put(response(text, True), (text,), forced=True)
    with pytest.raises(Refused) as caught:
        put(box, "C", True)
    assert caught.value.failure.message.startswith("100 bytes of messages wait to be read")
    assert [text[0] for text in await taken(box)] == ["A", "B"]


async def test_a_waiting_reader_gets_what_comes() -> None:
    box = Outbox(2)
    waiting = asyncio.create_task(box.next())
    await asyncio.sleep(0)
    put(box, "a", False)
    item = await waiting
    assert isinstance(item, asr_pb2.RecognizeResponse)
    assert item.result.text == "a"
    waiting = asyncio.create_task(box.next())
    await asyncio.sleep(0)
    box.close()
    assert await waiting is None


@given(st.lists(st.sampled_from(["interim", "final", "read"]), max_size=40))
def test_finals_in_order_and_interims_never_stale(steps: list[str]) -> None:
    async def run() -> None:
        box = Outbox(100)
        sent: list[int] = []
        finals: list[int] = []
        got: list[int] = []
        for number, step in enumerate(steps):
            if step != "read":
                sent.append(number)
                put(box, str(number), step == "final")
                if step == "final":
                    finals.append(number)
            elif sent[-1:] > got[-1:]:  # something waits
                item = await box.next()
                assert item is not None
                got.append(int(item.messages[0] if isinstance(item, Told) else item.result.text))
        got += [int(text) for text in await taken(box)]
        assert got == sorted(got)
        assert [number for number in got if number in finals] == finals
        assert got[-1:] == sent[-1:]
        assert len(got) + box.skipped == len(sent)

    asyncio.run(run())

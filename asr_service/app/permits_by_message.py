"""Asks the supervisor, which knows the streams of each API key over all front ends, for permits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from asr_common.control_channel import Message
from asr_service.app.control import FromFrontEnd


class PermitsByMessage:
    """A front end's `KeyPermits`.

    Args:
        send: sends a message to the supervisor.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._numbers = count(1)
        self._asked: dict[int, tuple[asyncio.Future[bool], str, int]] = {}

    async def ask(self, key: str, count: int, limit: int) -> bool:
        """See `KeyPermits.ask`."""
        number = next(self._numbers)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked[number] = (answer, key, count)
        self._send((FromFrontEnd.ASK_PERMIT, number, key, count, limit))
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.result():
                # It has come, and was on its way to the caller.
                self.give_back(key, count)
            raise

    def answer(self, number: int, is_granted: bool) -> None:
        """Takes the supervisor's answer to a request; what its asker no longer waits for is given back."""
        answer, key, count = self._asked.pop(number)
        if not answer.done():
            answer.set_result(is_granted)
        elif is_granted:
            self.give_back(key, count)

    def give_back(self, key: str, count: int) -> None:
        """See `KeyPermits.give_back`."""
        self._send((FromFrontEnd.GIVE_BACK, key, count))

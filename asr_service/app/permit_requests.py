"""Front ends' requests for permits of API keys, which the supervisor answers once it has read what came before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from asr_common.process_group import Child
from asr_service.access.permits import Permits
from asr_service.app.control import ToFrontEnd
from asr_service.app.processes import Process


@dataclass(frozen=True, slots=True)
class _Request:
    """What a front end asks for: see `FromFrontEnd.ASK_PERMIT`. `child` is its process."""

    front_end: Process
    child: Child
    number: int
    key: str
    count: int
    limit: int


class PermitRequests:
    """Answers front ends that ask for permits. For the supervisor's thread.

    Args:
        read_all: takes everything that has been sent up to now; what comes of it for this object is taken too.
    """

    def __init__(self, read_all: Callable[[], None]) -> None:
        self._read_all = read_all
        self._permits = Permits()
        self._waiting: deque[_Request] = deque()

    def ask(self, front_end: Process, number: int, key: str, count: int, limit: int) -> None:
        """Takes a request, which `answer` answers."""
        assert front_end.child is not None
        self._waiting.append(_Request(front_end, front_end.child, number, key, count, limit))

    def give_back(self, front_end: Process, key: str, count: int) -> None:
        """Takes permits back."""
        self._permits.give_back(front_end.number, key, count)

    def forget(self, front_end: Process) -> None:
        """Takes back all permits of a front end that has ended."""
        self._permits.forget(front_end.number)

    def answer(self) -> None:
        """Answers all requests that have come, in their order.

        Before one is refused, everything is read once more: nobody is refused because of a stream that its client knows
        to be over, whichever front ends the two came through.
        """
        while self._waiting:
            request = self._waiting.popleft()
            is_granted = self._grant(request)
            if not is_granted:
                self._read_all()
                is_granted = self._grant(request)
            if request.front_end.child is request.child:
                request.child.control.send((ToFrontEnd.PERMIT, request.number, is_granted))

    def _grant(self, request: _Request) -> bool:
        if request.front_end.child is not request.child:
            # It has ended, and its successor holds none.
            return False
        return self._permits.ask(request.front_end.number, request.key, request.count, request.limit)

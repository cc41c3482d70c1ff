"""The engine's end of its links to front ends: reads the records of all of them, and writes frames to each.

A link is a connected pair of stream sockets. Neither end ever waits for the other: what a socket does not take is kept
and goes out later. That cannot grow without bounds, since a front end has two unanswered chunks a slot at most.
"""

from __future__ import annotations

import contextlib
import select
import socket
from dataclasses import dataclass, field

import numpy as np

from asr_service.engine.frames import (
    RECORD,
    RECORD_BYTES,
    LeaseRequest,
    RecordKind,
    Records,
    payload_records,
    read_lease,
)

# 2048 records. Room for more is taken from the system and given back each time.
_READ_BYTES = 1 << 16
# As a plain number: operations on an enum's members take long.
_LEASE = int(RecordKind.LEASE)
_NO_CHUNKS: Records = np.zeros(0, RECORD)


@dataclass(slots=True)
class Intake:
    """What has come over all links.

    Attributes:
        chunks: records of chunks, those of a link in their order.
        releases: (slot, lease) of slots that are given back; their chunks are all in `chunks`.
        leases: the requests for slots, each with its link.
        closed: links whose front end is gone.
        is_watched_ready: whether there is something to read at the descriptor that is watched too.
    """

    chunks: Records
    releases: list[tuple[int, int]]
    leases: list[tuple[int, LeaseRequest]]
    closed: list[int]
    is_watched_ready: bool = False


@dataclass(slots=True)
class _Link:
    socket: socket.socket
    # Bytes of a record, or of a request, that has not come whole.
    rest: bytes = b""
    unsent: bytearray = field(default_factory=bytearray)


class EngineLinks:
    """Holds an engine's links, by number. For the engine's thread alone."""

    def __init__(self) -> None:
        self._links: dict[int, _Link] = {}
        self._numbers: dict[int, int] = {}
        self._poll = select.poll()

    def __len__(self) -> int:
        """Returns how many links there are."""
        return len(self._links)

    def numbers(self) -> list[int]:
        """Returns the numbers of the links that are open."""
        return list(self._links)

    def add(self, link: socket.socket) -> int:
        """Takes a link over and returns its number, the smallest that none has."""
        link.setblocking(False)
        number = next(number for number in range(len(self._links) + 1) if number not in self._links)
        self._links[number] = _Link(link)
        self._numbers[link.fileno()] = number
        self._poll.register(link, select.POLLIN)
        return number

    def watch(self, descriptor: int) -> None:
        """Makes `wait` return also when there is something to read from another descriptor."""
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, timeout_s: float | None) -> None:
        """Waits until something has come, or until so many seconds are over; None waits for as long as it takes."""
        self._poll.poll(None if timeout_s is None else max(0.0, 1000 * timeout_s))

    def read(self) -> Intake:
        """Reads what has come over all links, without waiting; sends what they had no room for before."""
        came: list[tuple[int, bytes]] = []
        intake = Intake(_NO_CHUNKS, [], [], [])
        for descriptor, events in self._poll.poll(0):
            number = self._numbers.get(descriptor)
            if number is None:
                intake.is_watched_ready = True
                continue
            if events & select.POLLOUT:
                self._send_rest(self._links[number])
            if events & ~select.POLLOUT:
                data, is_closed = self._receive(self._links[number].socket)
                if data:
                    came.append((number, data))
                if is_closed:
                    intake.closed.append(number)
        if came:
            intake.chunks = self._records(came, intake)
        for number in intake.closed:
            self.close(number)
        return intake

    @staticmethod
    def _receive(link: socket.socket) -> tuple[bytes, bool]:
        """Receives all that is there, and whether nothing more can come."""
        data = b""
        while True:
            try:
                more = link.recv(_READ_BYTES)
            except BlockingIOError:
                return data, False
            except ConnectionError:
                return data, True
            if len(more) < _READ_BYTES:
                return data + more if data else more, not more
            data += more

    def _records(self, came: list[tuple[int, bytes]], intake: Intake) -> Records:
        """Returns the records of chunks in what has come over the links; the others go into the intake.

        Bytes are joined and looked at together: nearly always they are whole records of chunks alone.
        """
        data = came[0][1] if len(came) == 1 else b"".join([data for _, data in came])
        if not any(len(data) % RECORD_BYTES or self._links[number].rest for number, data in came):
            records = np.frombuffer(data, RECORD)
            if not records["kind"].any():
                return records
        chunks: list[bytes] = []
        for number, data in came:
            self._parse(number, data, chunks, intake)
        return np.frombuffer(b"".join(chunks), RECORD)

    def _parse(self, number: int, data: bytes, chunks: list[bytes], intake: Intake) -> None:
        link = self._links[number]
        data = link.rest + data if link.rest else data
        count = len(data) // RECORD_BYTES
        records = np.frombuffer(data, RECORD, count)
        others = records["kind"].nonzero()[0]
        place = 0
        while len(others):
            at = int(others[0])
            after = at + 1
            record = records[at]
            if record["kind"] == _LEASE:
                after += payload_records(int(record["count"]))
                if after > count:
                    # The request goes on in what has not come yet.
                    count = at
                    break
                payload = data[(at + 1) * RECORD_BYTES : after * RECORD_BYTES]
                intake.leases.append((number, read_lease(record, payload)))
            else:
                intake.releases.append((int(record["slot"]), int(record["lease"])))
            chunks.append(data[place * RECORD_BYTES : at * RECORD_BYTES])
            place = after
            # A request's payload is bytes of any kind.
            others = others[others >= place]
        chunks.append(data[place * RECORD_BYTES : count * RECORD_BYTES])
        link.rest = data[count * RECORD_BYTES :]

    def send(self, number: int, *parts: bytes | memoryview) -> None:
        """Writes to a front end; never waits. Ignored if the link is closed."""
        link = self._links.get(number)
        if link is None:
            return
        if link.unsent:
            link.unsent += b"".join(parts)
            return
        try:
            sent = link.socket.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            # `read` finds that too, and says so.
            return
        data = b"".join(parts)
        if sent < len(data):
            link.unsent += memoryview(data)[sent:]
            self._poll.modify(link.socket, select.POLLIN | select.POLLOUT)

    def _send_rest(self, link: _Link) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                del link.unsent[: link.socket.send(link.unsent)]
            except ConnectionError:
                link.unsent.clear()
        if not link.unsent:
            self._poll.modify(link.socket, select.POLLIN)

    def close(self, number: int) -> None:
        """Closes a link, whose number may be another's from then on."""
        link = self._links.pop(number)
        self._poll.unregister(link.socket)
        del self._numbers[link.socket.fileno()]
        link.socket.close()

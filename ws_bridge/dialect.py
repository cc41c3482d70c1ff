"""The seam between a connection's protocol and what all protocols share (`session.py`).

A dialect is pure and lives as long as its connection: it reads the client's messages and writes what the client is
told. It decides what a message means and when it may come; the session moves audio and results, waits, and ends the
stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from asr.v1 import asr_pb2

from ws_bridge.protocol import Message, State
from ws_bridge.status import Failure


@dataclass(frozen=True, slots=True)
class Reply:
    """A message to the client that does not come of a result; it keeps its place among those that do."""

    text: str


Step = Message | Reply
"""What the session does about a client's message."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection is ended: its last messages, and the code and the reason of its close frame."""

    messages: Sequence[str]
    code: int
    reason: str = ""


class Dialect(Protocol):
    """One client's protocol. What it does not take it refuses with `Refused`, which ends the connection."""

    @property
    def state(self) -> State:
        """How far the client's messages have come. `Init` is given in NEW, nothing after CLOSING."""

    @property
    def sid(self) -> str:
        """The stream's name in the log; "" while it has none."""

    @property
    def patience_s(self) -> float | None:
        """How long the client may take to say how its stream is recognized; None: as the settings say."""

    def opening(self) -> Iterable[Step]:
        """What is done before the client's first message: an `Init` if the handshake has said it all."""

    def receive(self, data: str | bytes) -> Sequence[Step]:
        """Reads a message. `Init` comes once, and before all that goes to the service.

        Raises:
            Refused: the message cannot be served; the connection is closed with what `failed` makes of the failure.
        """

    def results(self, response: asr_pb2.RecognizeResponse) -> Iterable[str]:
        """Makes the messages of a result; none where the client has not asked for it."""

    def done(self) -> Ending:
        """Ends a connection whose stream is over, after its last result."""

    def failed(self, failure: Failure) -> Ending:
        """Ends a connection for a failure, after its last result."""

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

from ws_bridge.handshake import Handshake
from ws_bridge.messages import Message, State
from ws_bridge.status import Failure, Vocabulary


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
    """One client's protocol. What it does not take it refuses with `Refused`, which ends the connection.

    Attributes:
        words: what it calls things.
    """

    words: Vocabulary

    @property
    def state(self) -> State:
        """How far the client's messages have come. `Init` is given in NEW, nothing after CLOSING."""

    @property
    def sid(self) -> str:
        """The stream's name in the log; "" while it has none."""

    @property
    def patience_s(self) -> float | None:
        """How long the client may take to say how its stream is recognized; None: as the settings say."""

    @property
    def still_there(self) -> bool:
        """Whether the last message, in state NEW, has said that the client is there: it is then waited for anew."""

    def opening(self) -> Iterable[Step]:
        """What is done before the client's first message: an `Init` if the handshake has said it all."""

    def receive(self, data: str | bytes) -> Sequence[Step]:
        """Reads a message. `Init` comes before all else that goes to the service; a later one opens the stream anew.

        Raises:
            Refused: the message cannot be served; the connection is closed with what `failed` makes of the failure.
        """

    def left(self) -> Sequence[Step]:
        """Says what is done when the client has gone, for a dialect whose results go elsewhere."""

    def take(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Takes every result as it comes.

        Returns:
            What is sent in any case: the messages of a final; of an interim, what does not give way to a later one.
        """

    def interim(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Makes the messages of an interim, before the next final of its channel is taken; none if none is wanted."""

    def done(self) -> Ending:
        """Ends a connection whose stream is over, after its last result."""

    def failed(self, failure: Failure) -> Ending:
        """Ends a connection for a failure, after its last result."""


class GuestDialect(Dialect, Protocol):
    """Another protocol than the bridge's own, whose handshake says something already.

    Attributes:
        key: the client's API key, "" for none; None if it only comes with a message.
        headers: that the handshake is answered with.
        answers_elsewhere: whether results go to the webhook; then they do so though the client has gone.
    """

    key: str | None
    headers: Sequence[tuple[str, str]]
    answers_elsewhere: bool

    def learn(self, info: asr_pb2.GetServiceInfoResponse) -> None:
        """Takes what the service says of itself, before anything else."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An HTTP response; its body is JSON unless `content_type` says otherwise."""

    status: int
    body: str
    headers: Sequence[tuple[str, str]] = ()
    retry_after_ms: int | None = None
    content_type: str = "application/json"


class Door(Protocol):
    """Takes the handshakes of another protocol, on a path of its own.

    Attributes:
        words: what the protocol calls things.
    """

    words: Vocabulary

    def open(self, handshake: Handshake) -> GuestDialect:
        """Reads a handshake. Raises Refused if it asks for what cannot be served."""

    def refuse(self, failure: Failure) -> HttpAnswer:
        """Says in HTTP why a handshake is refused."""

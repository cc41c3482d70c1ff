"""The documented protocol (`protocol.py`, `wire.py`) as a dialect: what every path is that no other protocol has."""

from __future__ import annotations

from collections.abc import Sequence

from asr.v1 import asr_pb2

from ws_bridge.dialect import Ending, Step
from ws_bridge.messages import Init, State
from ws_bridge.protocol import Conversation
from ws_bridge.status import NORMAL, OWN, Failure
from ws_bridge.wire import error_json, result_json


class OwnProtocol:
    """Speaks the bridge's own protocol with one client."""

    patience_s = None
    words = OWN
    still_there = False

    def __init__(self) -> None:
        self._talk = Conversation()
        self._init: Init | None = None

    @property
    def state(self) -> State:
        """How far the client's messages have come."""
        return self._talk.state

    @property
    def sid(self) -> str:
        """Of the init; "" before it."""
        return self._talk.sid

    def opening(self) -> Sequence[Step]:
        """Does nothing: `init` is a message."""
        return ()

    def receive(self, data: str | bytes) -> Sequence[Step]:
        """Reads a message."""
        message = self._talk.receive(data)
        if isinstance(message, Init):
            self._init = message
        return () if message is None else (message,)

    def left(self) -> Sequence[Step]:
        """Never comes: with its client the stream has gone."""
        return ()

    def take(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Makes one message of a final."""
        return self.interim(response) if response.result.is_final else ()

    def interim(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Makes one message of a result."""
        # Results come of streams, and a stream of an init.
        assert self._init is not None
        return (result_json(response, self._init),)

    def done(self) -> Ending:
        """Says nothing more: the last final was the end."""
        return Ending((), NORMAL)

    def failed(self, failure: Failure) -> Ending:
        """Says what was wrong."""
        return Ending((error_json(failure, self.sid),), failure.close_code, failure.message)

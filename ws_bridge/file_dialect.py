"""The seam between protocols that take a whole recording in one request, and what they share (`uploads.py`). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from asr.v1 import asr_pb2

from ws_bridge.dialect import HttpAnswer
from ws_bridge.file_start import AudioFormat
from ws_bridge.handshake import Handshake
from ws_bridge.messages import Init
from ws_bridge.status import Failure, Vocabulary


class FileRequest(Protocol):
    """One recording, from its request to the response.

    Attributes:
        key: API key of the client, "" for none.
        sid: name of its stream.
        is_form: whether the body is a form, of which the recording is a part.
        raw: what the recording is where it is no file; None for a file, which says so itself.
    """

    key: str
    sid: str
    is_form: bool
    raw: AudioFormat | None

    @property
    def separate_channels(self) -> bool:
        """Whether each channel is recognized by itself; they are mixed else."""

    @property
    def is_streamed(self) -> bool:
        """Whether the response is a stream of events."""

    def learn(self, info: asr_pb2.GetServiceInfoResponse) -> None:
        """Takes what the service says of itself."""

    def read_form(self, fields: Mapping[str, Sequence[str]]) -> None:
        """Reads the other parts of a form. Raises Refused if they ask for what cannot be served."""

    def init(self, found: AudioFormat) -> Init:
        """How a recording of this format is recognized."""

    def take(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Takes a result; makes the events that are sent at once, for a response that is streamed."""

    def answer(self, sha256: str) -> HttpAnswer:
        """Makes the response, or the last events of one that is streamed; `sha256` is that of the recording."""

    def failed(self, failure: Failure) -> Sequence[str]:
        """Makes the events of a failure that comes when a streamed response has begun."""


class FileDoor(Protocol):
    """Takes recordings, on a path of its own.

    Attributes:
        words: what the protocol calls things.
    """

    words: Vocabulary

    def open(self, handshake: Handshake) -> FileRequest:
        """Reads the start of a request. Raises Refused if it asks for what cannot be served."""

    def refuse(self, failure: Failure) -> HttpAnswer:
        """Says in HTTP why a recording is refused."""

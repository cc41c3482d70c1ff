"""The door to the service: who is let in, what holds for every stream, and which streams are inside.

One process has one door, whatever protocols its streams speak. It lives on the event loop.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from asr_service.api import messages as wire
from asr_service.core.errors import AsrError, Unavailable
from asr_service.core.model import ModelInfo
from asr_service.core.values import StreamConfig
from asr_service.observability.metrics import Metrics
from asr_service.observability.traces import Tracing
from asr_service.sessions.session import Session, Sessions

STARTING_RETRY_S = 5.0


class Door:
    """Admission and limits of all streams.

    Args:
        sessions: hands out permits.
        metrics: told about who comes, is refused and leaves.
        idle_timeout_s: a stream that sends nothing for longer is ended.
        max_stream_s: longest stream, 0 for no limit.
        tracing: makes traces of streams; None for none.

    Attributes:
        info: what is loaded; None until the engine runs.
        refusal: what new streams are answered with instead of being admitted; None while serving.
        measured_streams: live streams that the start-up probe found the machine to sustain; 0 without one.
        inside: streams that were admitted and have not left; one of two channels counts once.
    """

    def __init__(
        self,
        sessions: Sessions,
        metrics: Metrics,
        *,
        idle_timeout_s: float,
        max_stream_s: float,
        tracing: Tracing | None = None,
    ) -> None:
        self.info: ModelInfo | None = None
        self.refusal: AsrError | None = starting()
        self.sessions = sessions
        self.metrics = metrics
        self.idle_timeout_s = idle_timeout_s
        self.max_stream_s = max_stream_s
        self.tracing = tracing
        self.measured_streams = 0
        self.inside = 0
        self._changed = asyncio.Event()

    def admit(self, config: StreamConfig, channels: int = 1) -> list[Session]:
        """Starts a session for each channel, or none at all; whoever is admitted has to `leave`.

        Raises:
            AsrError: why the stream is refused; it was counted.
        """
        if self.refusal is not None:
            self._refuse(self.refusal)
        try:
            # All or none, before the first takes its permit: a permit once taken is back only when the engine says so.
            self.sessions.check(channels)
            opened = [self.sessions.open(config) for _ in range(channels)]
        except AsrError as refused:
            self._refuse(refused)
        self.metrics.stream_opened()
        self.inside += 1
        return opened

    def _refuse(self, error: AsrError) -> NoReturn:
        self.metrics.refused(wire.reason(error))
        raise error

    def leave(self) -> None:
        """An admitted stream is over."""
        self.inside -= 1
        self._changed.set()

    async def drained(self) -> None:
        """Returns once no admitted stream is left; new ones are to be refused by then."""
        while self.inside:
            self._changed.clear()
            await self._changed.wait()


def starting() -> Unavailable:
    """What is answered before the model is loaded."""
    return Unavailable("the service is starting: its model is not loaded yet", retry_after_s=STARTING_RETRY_S)

"""Admits streams to the service or refuses them, and knows how many calls are open. Lives on the event loop."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from asr_service.access.api_keys import ApiKey, KeyRing
from asr_service.core.errors import AsrError, Unavailable
from asr_service.core.model import ModelInfo
from asr_service.core.values import StreamConfig
from asr_service.observability.metrics import Metrics
from asr_service.observability.traces import Tracing
from asr_service.sessions.registry import SessionRegistry
from asr_service.sessions.session import Session

STARTING_RETRY_S = 5.0


class Admission:
    """Admits streams, whatever protocol they speak: a process has one.

    Args:
        registry: takes the permits.
        metrics: told about who comes, is refused and leaves.
        idle_timeout_s: a stream that sends nothing for longer is ended.
        max_stream_s: longest stream, 0 for no limit.
        tracing: makes traces of streams; None for none.
        keys: API keys of which a caller has to show one; None where no key is asked for.

    Attributes:
        model_info: what is served; None until the engine runs.
        refusal: what new streams are answered with instead of being admitted; None while serving.
        measured_streams: live streams that the machine sustains as measured up to now; 0 if that is not measured.
        open_calls: calls that were admitted and have not ended; a call of two channels counts once.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        metrics: Metrics,
        *,
        idle_timeout_s: float,
        max_stream_s: float,
        tracing: Tracing | None = None,
        keys: KeyRing | None = None,
    ) -> None:
        self.model_info: ModelInfo | None = None
        self.refusal: AsrError | None = starting()
        self.registry = registry
        self.metrics = metrics
        self.idle_timeout_s = idle_timeout_s
        self.max_stream_s = max_stream_s
        self.tracing = tracing
        self.keys = keys
        self.measured_streams = 0
        self.open_calls = 0
        self._call_ended = asyncio.Event()

    def admit(self, config: StreamConfig, channels: int = 1, key: ApiKey | None = None) -> list[Session]:
        """Starts a session for each channel of a call, or none at all; a call that is admitted has to `leave`.

        Args:
            config: of every channel.
            channels: how many there are.
            key: the API key that the caller showed, None without keys.

        Raises:
            AsrError: why the call is refused; the refusal was counted.
        """
        # All or none, before the first takes its permit: a permit once taken is back only when the engine says so.
        self.check(channels, key)
        try:
            opened = [self.registry.open(config, key) for _ in range(channels)]
        except AsrError as refused:
            self._refuse(refused)
        self.metrics.stream_opened()
        self.open_calls += 1
        return opened

    def check(self, channels: int = 1, key: ApiKey | None = None) -> None:
        """Checks that a call of so many channels would be admitted now. Raises as `admit` does."""
        if self.refusal is not None:
            self._refuse(self.refusal)
        try:
            self.registry.check(channels, key)
        except AsrError as refused:
            self._refuse(refused)

    def _refuse(self, error: AsrError) -> NoReturn:
        self.metrics.refused(error.reason)
        raise error

    def leave(self) -> None:
        """Tells that an admitted call has ended."""
        self.open_calls -= 1
        self._call_ended.set()

    async def drained(self) -> None:
        """Waits until no admitted call is left; new ones are to be refused by then."""
        while self.open_calls:
            self._call_ended.clear()
            await self._call_ended.wait()


def starting() -> Unavailable:
    """What calls are answered with before the model can be used."""
    return Unavailable("the service is starting: its model is not made yet", retry_after_s=STARTING_RETRY_S)

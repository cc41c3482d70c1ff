"""An engine that the test plays: leases slots to sessions, keeps their chunks, and answers when the test says so."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from asr_service.core.errors import AsrError, AtCapacity
from asr_service.core.lease import ChunkAnswers
from asr_service.core.values import PhraseBoost, Samples, StreamConfig
from asr_service.model.null import NullModel
from asr_service.observability.metrics import Metrics
from asr_service.recognition.stream import Stream
from asr_service.recognition.vocabulary import Vocabulary
from asr_service.sessions.admission import Admission
from asr_service.sessions.engines import Engines, LinkedEngine
from asr_service.sessions.session import MAX_UNREAD, Session
from testbed.by_request import StepRequest, step


class DeskLease:
    """A slot that a stream has.

    Attributes:
        slot: the number.
        unanswered: chunks that wait for their answers.
        sent: how many chunks have come.
        is_released: whether it was given back.
    """

    def __init__(self, desk: Desk, slot: int, stream: ChunkAnswers, prompt: int) -> None:
        self.slot = slot
        self.unanswered: deque[StepRequest] = deque()
        self.sent = 0
        self.is_released = False
        self.stream = stream
        self._desk = desk
        self._prompt = prompt
        self._before = 0

    def send(self, samples: Samples, *, is_first: bool, is_last: bool, due: float) -> None:
        """See `Lease.send`."""
        assert not self.is_released
        self.unanswered.append(
            StepRequest(self.slot, samples.copy(), is_first, is_last, (), self._prompt if is_first else -1)
        )
        self.sent += 1
        assert len(self.unanswered) <= 2

    def release(self) -> None:
        """See `Lease.release`."""
        if not self.is_released:
            self.is_released = True
            self._desk.free.append(self.slot)

    def answer(self) -> None:
        """Answers the oldest chunk as the null model does."""
        request = self.unanswered.popleft()
        (result,) = step(self._desk.model, [request])
        before = 0 if request.is_first else self._before
        self._before = before + result.frames
        frames = [frame - before for frame in result.token_frames]
        self.stream.answer(list(result.tokens), frames, list(result.token_probs), result.frames, 0.0)

    def answer_all(self) -> None:
        """Answers until nothing is left to be answered."""
        while self.unanswered:
            self.answer()


class Desk:
    """An engine that is played: an `EngineLink` and the numbers that it tells.

    Attributes:
        leases: all that were given, in their order.
        free: slots that nobody has.
        refuse_with: what requests are refused with, None for nothing.
        numbers: as `EngineNumbers` and `ServiceNumbers`.
    """

    def __init__(self, slots: int = 2, model: NullModel | None = None) -> None:
        self.model = model or NullModel(slots=slots)
        self.vocabulary = Vocabulary(self.model.info.pieces)
        self.leases: list[DeskLease] = []
        self.free = list(range(slots))[::-1]
        self.refuse_with: AsrError | None = None
        self.is_open = True
        self.numbers: Any = SimpleNamespace(
            is_running=True,
            step_kind=0,
            leased=0,
            limit=slots,
            load=0.0,
            streams=0,
            stream_limit=slots,
            measured_streams=0,
            beat=math.inf,
        )

    async def lease(
        self, streams: Sequence[ChunkAnswers], prompt: int = -1, boosts: Sequence[PhraseBoost] = ()
    ) -> list[DeskLease]:
        """See `EngineLink.lease`."""
        if self.refuse_with is not None:
            raise self.refuse_with
        if len(self.free) < len(streams):
            raise AtCapacity("full")
        made = [DeskLease(self, self.free.pop(), stream, prompt) for stream in streams]
        self.leases += made
        return made

    def engine(self, number: int = 0) -> LinkedEngine:
        """As admission sees it."""
        return LinkedEngine(number, self.model.info, self.vocabulary, 0, self, self.numbers)

    def session(
        self, *, inbox_bytes: int = 1 << 20, max_unread: int = MAX_UNREAD, config: StreamConfig | None = None
    ) -> tuple[Session, DeskLease]:
        """A session with its slot."""
        config = config or StreamConfig("test")
        stream = Stream(config, self.model.info, self.vocabulary, 0.0, read_ahead=2)
        session = Session(stream, inbox_bytes, max_unread, interims=config.interim_results)
        lease = DeskLease(self, self.free.pop(), session, -1)
        self.leases.append(lease)
        session.start(lease)
        return session, lease


class Permits:
    """The limits of keys, kept here."""

    def __init__(self) -> None:
        self.open: dict[str, int] = {}

    async def ask(self, key: str, count: int, limit: int) -> bool:
        """See `KeyPermits.ask`."""
        now = self.open.get(key, 0)
        if limit and now + count > limit:
            return False
        self.open[key] = now + count
        return True

    def give_back(self, key: str, count: int) -> None:
        """See `KeyPermits.give_back`."""
        self.open[key] -= count


def admission_to(*desks: Desk, serving: bool = True, **options: Any) -> Admission:
    """Admission to engines that are played."""
    engines = Engines(len(desks))
    for number, desk in enumerate(desks):
        engines.add(desk.engine(number))
    settings = {"inbox_s": 1.0, "idle_timeout_s": 300.0, "max_stream_s": 0.0} | options
    admission = Admission(engines, Permits(), desks[0].numbers, Metrics(), **settings)
    if serving:
        admission.refusal = None
    return admission

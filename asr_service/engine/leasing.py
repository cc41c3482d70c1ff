"""Leases an engine's slots to front ends that ask for them, or says why not: the engine has the last word."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from asr_service.core.errors import InternalError, InvalidArgument
from asr_service.core.model import StreamingModel
from asr_service.engine.chunk_queue import ChunkQueue
from asr_service.engine.contract import EngineRecord
from asr_service.engine.engine_links import EngineLinks
from asr_service.engine.frames import FrameKind, LeaseRequest, pack_header, pack_invalid, pack_rows
from asr_service.engine.meter import Meter
from asr_service.engine.slots import Slots

log = logging.getLogger(__name__)


class Leasing:
    """Answers requests for slots. For the engine's thread.

    Args:
        model: told what a slot's segments are conditioned on.
        slots: of the model.
        queue: keeps the leases.
        meter: knows the load; told that a stream comes.
        links: to the front ends.
        record: says how many streams are admitted.
        max_load: load above which no stream is admitted; 0 for no limit.
        before_opening: called before a slot is given out, which may be in a step, or used by a sweep.
    """

    def __init__(
        self,
        model: StreamingModel,
        slots: Slots,
        queue: ChunkQueue,
        meter: Meter,
        links: EngineLinks,
        record: EngineRecord,
        *,
        max_load: float,
        before_opening: Callable[[], None],
    ) -> None:
        self._model = model
        self._slots = slots
        self._queue = queue
        self._meter = meter
        self._links = links
        self._record = record
        self._max_load = max_load
        self._before_opening = before_opening

    def has_room(self, request: LeaseRequest) -> bool:
        """Returns whether there are as many slots as a request asks for."""
        taken = len(self._slots.leased)
        return taken + request.slots <= min(self._slots.count, int(self._record.limit))

    def answer(self, link: int, request: LeaseRequest) -> None:
        """Leases slots to a front end, or says why not."""
        if not self.has_room(request):
            self._links.send(link, pack_header(FrameKind.AT_CAPACITY, 0, request=request.request))
            return
        load = self._meter.load
        if 0 < self._max_load < load:
            self._links.send(
                link, pack_header(FrameKind.OVERLOADED, 0, request=request.request, started=load)
            )
            return
        self._before_opening()
        leased: list[tuple[int, int]] = []
        try:
            for _ in range(request.slots):
                lease = self._queue.open(link)
                assert lease is not None
                leased.append(lease)
                self._model.open(lease[0], request.prompt, request.boosts)
        except Exception as error:
            for slot, number in leased:
                self._queue.close(slot, number)
            self._refuse(link, request, error)
            return
        # Front ends choose by it, and do not count a stream themselves any more once they have this answer.
        self._record.leased = len(self._slots.leased)
        slots, numbers = np.array(leased).T
        rows = pack_rows(slots, numbers, None)
        header = pack_header(FrameKind.LEASED, len(leased), request=request.request)
        self._links.send(link, header, rows.data.cast("B"))

    def _refuse(self, link: int, request: LeaseRequest, error: Exception) -> None:
        """Refuses what a request asks for, of which the model knows nothing."""
        if not isinstance(error, InvalidArgument):
            bug = InternalError()
            log.error("request %s: a stream could not be opened", bug.request_id, exc_info=error)
            self._links.send(
                link, pack_header(FrameKind.BROKEN, 0, request=request.request, failure=bug.request_id)
            )
            return
        self._links.send(link, pack_invalid(request.request, f"{error.field}\n{error.message}"))

"""Holds the engine's open streams: executes commands for them, takes in what steps answer, schedules and ends them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from asr_service.core.commands import Audio, Cancel, Command, Ended, Event, Finalize, HalfClose, Open
from asr_service.core.errors import AsrError, AtCapacity, ClientError, InternalError
from asr_service.core.model import ModelInfo, StepResult
from asr_service.core.values import Result
from asr_service.engine.scheduler import Scheduler
from asr_service.engine.slots import Slots
from asr_service.recognition.chunk_cutter import finalize_silence_ms
from asr_service.recognition.states import Work
from asr_service.recognition.stream import Stream
from asr_service.recognition.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class Streams:
    """Keeps the open streams by their ids, which are never used again, and the events that they make.

    Args:
        info: of the model.
        slots: of the model; each stream leases one.
        scheduler: takes the streams that are ready.
        silence_ms: that follows a finalize, see `Stream`; None for what suits the model.
    """

    def __init__(self, info: ModelInfo, slots: Slots, scheduler: Scheduler, silence_ms: int | None) -> None:
        self._info = info
        self._vocabulary = Vocabulary(info.pieces)
        self._slots = slots
        self._scheduler = scheduler
        by_model = finalize_silence_ms(info, punctuates=self._vocabulary.punctuates)
        self._silence_ms = by_model if silence_ms is None else silence_ms
        self._streams: dict[int, Stream] = {}
        self._events: list[Event] = []

    def __len__(self) -> int:
        """Returns how many streams are open."""
        return len(self._streams)

    def __getitem__(self, stream: int) -> Stream:
        """Returns an open stream by its id. Raises KeyError if there is none."""
        return self._streams[stream]

    def count(self, work: Work) -> int:
        """Counts the streams in a state, from any thread."""
        return [stream.work for stream in list(self._streams.values())].count(work)

    def take_events(self) -> tuple[Event, ...]:
        """Takes the events since the last time."""
        events, self._events = tuple(self._events), []
        return events

    def execute(self, now: float, command: Command) -> None:
        """Executes a command that came at `now`; ignores one for a stream that ended while it was on its way."""
        if isinstance(command, Open):
            self._open(command, now)
            return
        stream = self._streams.get(command.stream)
        if stream is None:
            return
        was_waiting = stream.ready_at is None
        try:
            results: list[Result] = []
            match command:
                case Audio(data=data):
                    stream.audio(data, now)
                case Finalize(tag=tag):
                    results = stream.finalize(tag, now, _unix_ms())
                case HalfClose(by_server=by_server):
                    results = stream.half_close(now, _unix_ms(), by_server=by_server)
                case Cancel():
                    stream.cancel()
            self._after_change(stream, results, was_waiting=was_waiting)
        except ClientError as error:
            self._end(stream, error)
        except Exception as error:
            self.fail([stream], error)

    def consumed(self, batch: Sequence[Stream]) -> None:
        """Tells how much audio went into the requests of these streams."""
        self._events += [stream.take_consumed() for stream in batch]

    def answer(self, batch: Sequence[Stream], answers: Sequence[StepResult], now: float) -> None:
        """Takes what a step that ended now has answered to each stream of its batch."""
        unix_ms = _unix_ms()
        broken = [stream for stream, answer in zip(batch, answers, strict=True) if answer.broken]
        if broken:
            self.fail(broken, FloatingPointError("the model's output is not finite"))
        for stream, answer in zip(batch, answers, strict=True):
            if answer.broken:
                continue
            try:
                results = stream.answer(answer, now, unix_ms)
                if stream.restarted:
                    # The front end waits for a chunk that is longer than the next one.
                    self._events.append(stream.take_consumed())
                self._after_change(stream, results, was_waiting=True)
            except Exception as error:
                self.fail([stream], error)

    def fail(self, streams: Sequence[Stream], error: Exception) -> None:
        """Ends these streams with an internal error."""
        bug = _internal_error(error, len(streams))
        for stream in streams:
            self._end(stream, InternalError(request_id=bug.request_id))

    def end_all(self, error: AsrError) -> None:
        """Ends all streams with an error."""
        for stream in list(self._streams.values()):
            self._end(stream, error)

    def _open(self, command: Open, now: float) -> None:
        """Starts a stream on a free slot."""
        slot = self._slots.lease()
        if slot is None:
            self._events.append(Ended(command.stream, AtCapacity("all streams are taken", retry_after_s=1.0)))
            return
        try:
            stream = Stream(
                command.stream,
                command.config,
                self._info,
                self._vocabulary,
                slot,
                now,
                self._silence_ms,
                keeps_interims=True,
            )
        except Exception as error:
            self._slots.give_back(slot)
            told = error if isinstance(error, ClientError) else _internal_error(error, 1)
            self._events.append(Ended(command.stream, told))
            return
        self._streams[command.stream] = stream
        self._events.append(stream.take_consumed())

    def _after_change(self, stream: Stream, results: list[Result], *, was_waiting: bool) -> None:
        """Passes on the results of a command or a step, and schedules the stream's next chunk or ends the stream.

        Args:
            stream: the one that has changed.
            results: that the change made.
            was_waiting: whether the stream was not in the scheduler before.
        """
        self._events += results
        if stream.work is Work.ENDED:
            self._end(stream, None)
        elif was_waiting and stream.ready_at is not None:
            self._scheduler.add(stream.id, stream.ready_at)

    def _end(self, stream: Stream, error: AsrError | None) -> None:
        """Ends a stream: frees its slot and reports the end."""
        self._scheduler.remove(stream.id)
        del self._streams[stream.id]
        self._slots.give_back(stream.slot)
        self._events.append(Ended(stream.id, error))


def _internal_error(error: Exception, streams: int) -> InternalError:
    """Logs a bug with its traceback and makes the error for clients; the same request id is in both."""
    bug = InternalError()
    log.error("request %s: %d streams ended by an internal error", bug.request_id, streams, exc_info=error)
    return bug


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000

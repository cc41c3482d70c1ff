"""Transcribes many files at once: each once it has a place on the service, again where that went away."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from grpc import aio

from clients.captions import Utterance, Word
from clients.pacing import BYTES_PER_SAMPLE
from clients.transcribe.outputs import Job, Transcript, Unwritable, write_whole
from clients.transcribe.progress import FileShown, Shown
from clients.transcribe.recordings import RATE, Recording, recording
from clients.transcribe.upload import Refused, in_thread, recognized
from clients.wav import WavError

MOST_RESTARTS = 3
"""How often a file is begun again whose stream the service has ended: what ends it may be the file."""
LONGEST_RETRY_S = 10.0
"""Between attempts to reach a service that says nothing."""
_PASSES = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


class _Failed(Exception):
    """A file is given up; the message is one line that begins with its name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How files are transcribed.

    Attributes:
        open_channel: opens a connection to the service.
        metadata: of every call.
        config: of every stream, but for its channels.
        separate: a transcript for each channel, in place of one of their average.
        patience_s: how long files wait while none goes on.
    """

    open_channel: Callable[[], aio.Channel]
    metadata: Sequence[tuple[str, str]]
    config: pb.RecognitionConfig
    separate: bool
    patience_s: float


class Batch:
    """Files on their way through the service."""

    def __init__(self, plan: Plan, jobs: Sequence[Job], shown: Shown) -> None:
        self._plan = plan
        self._left = deque(jobs)
        self._shown = shown
        self._moved_at = time.monotonic()
        self.failures: list[str] = []
        self.skipped = 0

    async def run(self, at_once: int) -> None:
        """Transcribes all, so many at once; `failures` has a line for each that failed."""
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(self._left))):
                group.create_task(self._work())

    async def _work(self) -> None:
        # A connection each: a service of several front ends has its kernel spread them.
        async with self._plan.open_channel() as channel:
            stub = asr_pb2_grpc.SpeechServiceStub(channel)
            while self._left:
                job = self._left.popleft()
                shown = self._shown.begin(job.source)
                line = failure = ""
                try:
                    line = await self._transcribe(job, stub, shown)
                except (_Failed, WavError, Unwritable) as error:
                    failure = str(error)
                except OSError as error:
                    failure = f"{job.source}: {error.strerror or error}"
                except Exception as error:
                    # Nobody has foreseen it, and the other files are none the worse for it.
                    why = " ".join(str(error).split())
                    failure = f"{job.source}: {type(error).__name__}: {why}"
                finally:
                    if failure:
                        self.failures.append(failure)
                    shown.end(failure or line, "red" if failure else "green")

    async def _transcribe(self, job: Job, stub: asr_pb2_grpc.SpeechServiceAsyncStub, shown: FileShown) -> str:
        """Brings one file to its end; returns the line that says so, "" if there is nothing to do."""
        began = time.monotonic()
        refusals = restarts = 0
        while True:
            with ExitStack() as stack:
                changed = job.source.stat().st_mtime_ns if job.source.is_file() else 0
                # Without a look at its channels, if those do not matter.
                if not self._plan.separate and changed and not job.missing([None]):
                    self.skipped += 1
                    return ""
                source = recording(job.source, separate=self._plan.separate)
                opened = await in_thread(stack.enter_context, source)
                channels: list[int | None] = [None] if opened.channels == 1 else [1, 2]
                missing = job.missing(channels)
                if not missing:
                    self.skipped += 1
                    return ""
                shown.start(opened.duration_s)
                try:
                    heard = await recognized(
                        stub,
                        self._config(opened),
                        opened.packets,
                        self._plan.metadata,
                        lambda sent, of=opened: self._advance(shown, sent, of),  # type: ignore[misc]
                    )
                    break
                except Refused as refused:
                    restarts += refused.admitted
                    refusals = 1 if refused.admitted else refusals + 1
                    delay_s = self._delay_s(job, refused, refusals, restarts)
                    why = str(refused)
            shown.wait(why)
            await asyncio.sleep(delay_s)
        if job.source.stat().st_mtime_ns != changed:
            raise _Failed(f"{job.source}: has changed while it was read")
        transcripts = _transcripts(job, heard, channels)
        await in_thread(
            write_whole,
            {job.path(form, one): transcripts[one].written(form, job.source) for form, one in missing},
        )
        seconds = max(one.audio_ms for one in transcripts.values()) / 1000
        written = ", ".join(str(job.path(form, one)) for form, one in missing)
        return f"{job.source}: {seconds:.1f} s of audio in {time.monotonic() - began:.1f} s: {written}"

    def _config(self, opened: Recording) -> pb.RecognitionConfig:
        config = pb.RecognitionConfig()
        config.CopyFrom(self._plan.config)
        config.audio_channel_count = opened.channels
        return config

    def _advance(self, shown: FileShown, sent: int, opened: Recording) -> None:
        self._moved_at = time.monotonic()
        shown.advance(sent / (BYTES_PER_SAMPLE * RATE * opened.channels))

    def _delay_s(self, job: Job, refused: Refused, refusals: int, restarts: int) -> float:
        """Says how long a file waits until it is tried again; _Failed if it is not."""
        says = refused.retry_after_s is not None or refused.code is grpc.StatusCode.UNAVAILABLE
        if refused.code not in _PASSES or not says:
            raise _Failed(f"{job.source}: {refused}")
        if restarts > MOST_RESTARTS:
            raise _Failed(f"{job.source}: {refused} (begun {restarts} times)")
        if (waited_s := time.monotonic() - self._moved_at) > self._plan.patience_s:
            raise _Failed(f"{job.source}: {refused} (given up after {waited_s:.0f} s)")
        delay_s = refused.retry_after_s
        if delay_s is None:
            delay_s = min(LONGEST_RETRY_S, 0.5 * 2 ** min(refusals, 10))
        # Not all at the same moment.
        return max(delay_s, 0.1) * random.uniform(1, 1.25)


def _transcripts(
    job: Job, heard: Sequence[pb.RecognizeResponse], channels: Sequence[int | None]
) -> dict[int | None, Transcript]:
    """Sorts finals by channel."""
    transcripts: dict[int | None, Transcript] = {}
    for index, channel in enumerate(channels):
        own = [one for one in heard if one.result.channel == index]
        for one in own:
            if one.result.text and not one.result.words:
                raise _Failed(f"{job.source}: the service has sent text without words: is it an older one?")
        audio_ms = max((one.audio_processed_ms for one in own), default=0)
        if not audio_ms:
            raise _Failed(f"{job.source}: there is no audio in it")
        transcripts[channel] = Transcript(channel, [_utterance(one.result) for one in own], audio_ms)
    return transcripts


def _utterance(result: pb.RecognitionResult) -> Utterance:
    return Utterance(
        result.text,
        tuple(Word(word.word, word.start_ms, word.end_ms, word.confidence) for word in result.words),
        result.confidence,
        pb.FinalReason.Name(result.final_reason).removeprefix("FINAL_REASON_").lower(),
        result.language_code,
    )

"""Drives Pipecat's NVIDIA services in pipelines: audio frames in, transcription frames out.

`live` is NvidiaSTTService, which waits for the server's endpoints; `segmented` is NvidiaSegmentedSTTService, which
sends what lies between two frames of a voice activity detector as one unary call.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from common import PACKET_MS, RATE, Heard, Order, answer, order, packets, samples, speech_end
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.nvidia.stt import NvidiaSegmentedSTTService, NvidiaSTTService
from pipecat.workers.runner import WorkerRunner

LONGEST_WAIT_S = 60.0


class Sink(FrameProcessor):
    """Notes the transcriptions that come by; `done` once they say what is expected."""

    def __init__(self, heard: Heard, expected: str) -> None:
        super().__init__()
        self.heard = heard
        self.expected = expected
        self.done = asyncio.Event()
        self.at = 0.0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterimTranscriptionFrame):
            self.heard.interims.append(frame.text)
        elif isinstance(frame, TranscriptionFrame):
            self.at = time.monotonic()
            self.heard.finals.append(frame.text)
            if self.heard.text == self.expected:
                self.done.set()
        await self.push_frame(frame, direction)


async def drive(service: Any, given: Order, name: str, *, detector: bool, at_once: bool) -> Heard:
    """One file through a pipeline; `detector` stands in for one, `at_once` leaves out the pace of a speaker."""
    heard = Heard(name)
    sink = Sink(heard, given.expected[name])
    params = PipelineParams(audio_in_sample_rate=given.rate)
    worker = PipelineWorker(
        Pipeline([service, sink]), params=params, cancel_on_idle_timeout=False, enable_rtvi=False
    )
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def _(_worker: Any, _frame: Any) -> None:
        started.set()

    async def speak() -> None:
        await asyncio.wait_for(started.wait(), LONGEST_WAIT_S)
        pcm = samples(given.files[name], given.rate)
        last, spoken = speech_end(pcm, given.rate), 0.0
        if detector:
            await worker.queue_frame(VADUserStartedSpeakingFrame())
        began = time.monotonic()
        for at, piece in enumerate(packets(pcm, given.rate)):
            pace = 0 if at_once else (at + 1) * PACKET_MS / 1000
            await asyncio.sleep(max(0.0, began + pace - time.monotonic()))
            frame = InputAudioRawFrame(audio=piece, sample_rate=given.rate, num_channels=1)
            await worker.queue_frame(frame)
            if at == last:
                spoken = time.monotonic()
        if detector:
            spoken = time.monotonic()
            await worker.queue_frame(VADUserStoppedSpeakingFrame())
        try:
            await asyncio.wait_for(sink.done.wait(), LONGEST_WAIT_S)
            heard.waited_s = sink.at - spoken
        except TimeoutError:
            pass  # the test shows what came instead
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak())
    return heard


async def main(given: Order) -> None:
    """All files at the same time."""
    detector = given.mode == "segmented"
    kind = NvidiaSegmentedSTTService if detector else NvidiaSTTService
    drives = [
        # Segments are sent whole when they are over: nothing depends on their pace.
        drive(
            kind(server=given.target, use_ssl=False, sample_rate=RATE),
            given,
            name,
            detector=detector,
            at_once=detector,
        )
        for name in given.files
    ]
    # The segmented service calls from the event loop and blocks it: one file after the other.
    heard = [await one for one in drives] if detector else await asyncio.gather(*drives)
    answer(list(heard), "pipecat-ai", "nvidia-riva-client", "protobuf")


if __name__ == "__main__":
    asyncio.run(main(order()))

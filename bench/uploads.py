"""Whole recordings over Riva's `Recognize`, alone and many at once, beside live streams.

    python -m bench.uploads [--model demo] [--minutes 60] [--uploads 10] [--live 4] [--form flac]

Told: how many times faster than real time an upload is alone (and the same audio as a stream of `asr.v1`); how long
live streams wait for interims alone and beside the uploads, from the packet that completes a step; what memory the
service takes at most while they last, over what it had before; and how soon its streams are free when the client that
uploads is gone. The recording is the demo's clips, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import os
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt
import riva.client.proto.riva_asr_pb2 as rasr
import riva.client.proto.riva_asr_pb2_grpc as rasr_grpc
import soundfile
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from bench.options import write_report
from clients.grpc_client_wav import WavStream, recognize
from testbed.processes import ROOT, AsrService, children

RATE = 16_000
LIVE_S = 20.0
FORMS = {
    "wav": ("WAV", "PCM_16"),
    "float": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
}
LARGEST_MESSAGE = 1 << 30


def recording(minutes: float) -> npt.NDArray[np.int16]:
    """So many minutes of the demo's clips, one after the other."""
    clips = []
    for path in sorted((ROOT / "asr_service/assets/clips").glob("*.wav")):
        with wave.open(str(path)) as clip:
            clips.append(np.frombuffer(clip.readframes(clip.getnframes()), "<i2"))
    once = np.concatenate(clips)
    return np.resize(once, int(minutes * 60 * RATE))


def file_of(samples: npt.NDArray[np.int16], form: str) -> bytes:
    """The recording as a file."""
    kind, subtype = FORMS[form]
    file = io.BytesIO()
    # In pieces: libsndfile's encoder of Opus has a large stack otherwise.
    with soundfile.SoundFile(file, "w", RATE, 1, subtype, format=kind) as out:
        for begin in range(0, samples.size, 10 * RATE):
            out.write(samples[begin : begin + 10 * RATE] / np.float32(32768))
    return file.getvalue()


class Measured:
    """A service and what is asked of it."""

    def __init__(self, service: AsrService, channel: grpc.aio.Channel) -> None:
        self.service = service
        self.v1 = asr_pb2_grpc.SpeechServiceStub(channel)
        self.riva = rasr_grpc.RivaSpeechRecognitionStub(channel)

    async def upload(self, audio: bytes) -> str:
        """The text of an upload."""
        request = rasr.RecognizeRequest(config=rasr.RecognitionConfig(), audio=audio)
        response = await self.riva.Recognize(request)
        return " ".join(result.alternatives[0].transcript for result in response.results)

    async def streamed(self, pcm: bytes) -> str:
        """The text of the same audio as a stream that is sent as fast as it is taken."""
        stream = WavStream(pcm, self._config(), packet_ms=100, realtime=False)
        return await recognize(self.v1, stream, lambda *_: None)

    async def live(self, pcm: bytes, count: int) -> list[float]:
        """How long the interims of live streams take, in ms."""
        waits: list[float] = []

        def note(response: pb.RecognizeResponse, latency_ms: float) -> None:
            if not response.result.is_final:
                waits.append(latency_ms)

        async def one(number: int) -> None:
            await asyncio.sleep(number * 0.037)
            begin = 2 * RATE * 7 * number
            audio = pcm[begin : begin + int(LIVE_S * 2 * RATE)]
            await recognize(self.v1, WavStream(audio, self._config(), packet_ms=20, realtime=True), note)

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
        return waits

    async def active(self) -> int:
        """Streams that are open."""
        return int((await self.v1.GetServiceInfo(pb.GetServiceInfoRequest())).active_streams)

    @staticmethod
    def _config() -> pb.RecognitionConfig:
        return pb.RecognitionConfig(sample_rate_hertz=RATE)

    def memory_mib(self) -> float:
        """Resident memory of the service's processes."""
        pages = 0
        for pid in (self.service.pid, *children(self.service.pid)):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all of it."""
    samples = recording(options.minutes)
    pcm, audio = samples.tobytes(), file_of(samples, options.form)
    settings: dict[str, Any] = {"ASR_MAX_STREAMS": options.uploads + options.live + 1}
    figures: dict[str, Any] = vars(options) | {"file_mib": len(audio) / 2**20}
    with AsrService(options.model, ASR_MAX_MESSAGE_BYTES=LARGEST_MESSAGE, **settings) as service:
        limits = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(service.target, options=limits) as channel:
            asked = Measured(service, channel)
            # What is allocated once has been.
            await asked.upload(file_of(samples[: 60 * RATE], options.form))
            seconds = len(pcm) / 2 / RATE
            began = time.monotonic()
            text = await asked.upload(audio)
            figures["alone_times_real_time"] = seconds / (time.monotonic() - began)
            began = time.monotonic()
            same = await asked.streamed(pcm)
            figures["streamed_times_real_time"] = seconds / (time.monotonic() - began)
            figures["words"] = len(text.split())
            figures["same_words_as_streamed"] = text == same
            figures["live_alone_ms"] = spread(await asked.live(pcm, options.live))
            before = asked.memory_mib()
            highest = 0.0

            async def watch() -> None:
                nonlocal highest
                while True:
                    highest = max(highest, asked.memory_mib())
                    await asyncio.sleep(0.1)

            watching = asyncio.create_task(watch())
            # From a process of their own: sending them takes time, which is not the service's.
            uploader = multiprocessing.get_context("spawn").Process(
                target=upload_all, args=(service.target, audio, options.uploads)
            )
            uploader.start()
            figures["live_beside_ms"] = spread(await asked.live(pcm, options.live))
            figures["uploads_still_there"] = await asked.active()
            watching.cancel()
            figures["memory_mib"] = highest - before
            began = time.monotonic()
            uploader.kill()
            while await asked.active():  # noqa: ASYNC110 - another process's state can only be asked
                await asyncio.sleep(0.01)
            figures["cancelled_s"] = time.monotonic() - began
            uploader.join()
    return figures


def upload_all(target: str, audio: bytes, count: int) -> None:
    """Uploads a file so many times at once."""
    limits = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(target, options=limits) as channel:
        recognize_all = rasr_grpc.RivaSpeechRecognitionStub(channel).Recognize
        request = rasr.RecognizeRequest(config=rasr.RecognitionConfig(), audio=audio)
        for call in [recognize_all.future(request) for _ in range(count)]:
            call.result()


def spread(waits: Sequence[float]) -> dict[str, float]:
    """Median, 95th and largest."""
    return {
        "p50": float(np.percentile(waits, 50)),
        "p95": float(np.percentile(waits, 95)),
        "max": float(max(waits)),
        "interims": len(waits),
    }


def show(found: dict[str, Any]) -> None:
    """Prints the figures."""
    print(f"{found['minutes']:g} min as {found['form']}, {found['file_mib']:.1f} MiB, model {found['model']}")
    print(f"  alone: {found['alone_times_real_time']:.0f} times real time")
    print(f"  the same as a stream of asr.v1: {found['streamed_times_real_time']:.0f} times real time")
    print(f"  {found['words']} words, the same as streamed: {found['same_words_as_streamed']}")
    for name, which in (("alone", "live_alone_ms"), ("beside the uploads", "live_beside_ms")):
        spread_ = found[which]
        print(
            f"  {found['live']} live streams {name}: interims {spread_['p50']:.1f} ms (median), "
            f"{spread_['p95']:.1f} (95th), {spread_['max']:.1f} (largest of {spread_['interims']})"
        )
    print(f"  {found['uploads']} uploads, {found['uploads_still_there']} still there after the live streams")
    print(f"  memory: at most {found['memory_mib']:.0f} MiB more than before")
    print(f"  all streams free {found['cancelled_s']:.2f} s after the client that uploads was gone")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code, 1 where a cancelled upload kept its stream for a second."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.uploads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--uploads", type=int, default=10)
    parser.add_argument("--live", type=int, default=4)
    parser.add_argument("--form", choices=FORMS, default="flac")
    parser.add_argument("--quick", action="store_true", help="an upload of six minutes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(argv)
    if options.quick:
        options.minutes = 6
    path = options.json
    del options.json, options.quick
    found = asyncio.run(measure(options))
    show(found)
    write_report(path, found)
    return int(found["cancelled_s"] > 1 or not found["same_words_as_streamed"])


if __name__ == "__main__":
    sys.exit(main())

"""Hears the evaluation sets through a service of its own, over gRPC, and compares what it says with the reference."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clients.pacing import packets
from demo_model.evaluate import Recording, add_scores
from demo_model.features import RATE
from testbed.processes import AsrService

PACKET_MS = 100
TOGETHER = 8
_FRAME_MS = 80
Texts = dict[tuple[str, str], list[str]]


async def _recognize(stub: Any, recording: Recording, look_ahead_ms: int) -> str:
    """Stream one recording; return the finals' words."""
    from asr.v1 import asr_pb2 as pb

    pcm = (recording.audio * 32768).astype("<i2").tobytes()

    async def requests() -> AsyncIterator[pb.RecognizeRequest]:
        config = pb.RecognitionConfig(
            encoding=pb.AUDIO_ENCODING_LINEAR16, sample_rate_hertz=RATE, look_ahead_ms=look_ahead_ms
        )
        yield pb.RecognizeRequest(config=config)
        for packet in packets(pcm, RATE, PACKET_MS):
            yield pb.RecognizeRequest(audio=packet)

    finals = [
        response.result.text async for response in stub.Recognize(requests()) if response.result.is_final
    ]
    return " ".join(text for text in finals if text)


async def _all(target: str, recordings: Sequence[Recording], look_ahead_ms: int) -> list[str]:
    import grpc.aio
    from asr.v1 import asr_pb2_grpc

    gate = asyncio.Semaphore(TOGETHER)
    async with grpc.aio.insecure_channel(target) as channel:
        stub = asr_pb2_grpc.SpeechServiceStub(channel)

        async def one(recording: Recording) -> str:
            async with gate:
                return await _recognize(stub, recording, look_ahead_ms)

        return await asyncio.gather(*(one(recording) for recording in recordings))


def hear(model: Path, recordings: Sequence[Recording], pairs: Sequence[str], device: str) -> Texts:
    """Start the service with this model for each decoder, and stream every recording at every look-ahead."""
    found: Texts = {}
    for decoder in ("rnnt", "ctc"):
        settings = {"ASR_ATT_CTX": ";".join(pairs), "ASR_DECODER": decoder, "ASR_MAX_STREAMS": 2 * TOGETHER}
        # The silence that a service adds to the end of a stream has it hear words that the reference does not.
        settings["ASR_FINALIZE_SILENCE_MS"] = 0
        with AsrService(str(model.resolve()), ASR_DEVICE=device, ASR_PRECISION="fp32", **settings) as service:
            for name in pairs:
                ahead = _FRAME_MS * int(name.partition(",")[2])
                found[name, decoder] = asyncio.run(_all(service.target, recordings, ahead))
    return {(name, decoder): found[name, decoder] for name in pairs for decoder in ("rnnt", "ctc")}


def compare_texts(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Count the recordings of which the service said what the reference says."""
    return int(np.sum([one == other for one, other in zip(reference, heard, strict=True)]))


def report_of(model: Path, recordings: Sequence[Recording], reference: Texts, device: str) -> dict[str, Any]:
    """Return the report of what the service heard, with how many recordings equal the reference, and which do not."""
    pairs = list(dict.fromkeys(name for name, _ in reference))
    found = hear(model, recordings, pairs, device)
    report: dict[str, Any] = {
        "model": model.name,
        "utterances": len(recordings),
        "wer": {},
        "false_words": {},
    }
    report |= {"equal": {}, "unequal": []}
    for (name, decoder), heard in found.items():
        add_scores(report, name, decoder, recordings, heard)
        wanted = reference[name, decoder]
        report["equal"][f"{name} {decoder}"] = f"{compare_texts(wanted, heard)} of {len(heard)}"
        report["unequal"] += [
            {"id": recording.id, "look_ahead": name, "decoder": decoder, "reference": one, "heard": other}
            for recording, one, other in zip(recordings, wanted, heard, strict=True)
            if one != other
        ]
    return report

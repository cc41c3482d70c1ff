"""Silence for a real model: no words, no memory that is not given back, and words after it as before."""

from __future__ import annotations

import json
import random
import wave
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from tests.support.audio import silence as silent
from tests.support.process import PATIENCE_S, ROOT, AsrService, resident_bytes
from tests.support.rpc import audio, config, talk, transcribe

CLIPS = ROOT / "asr_service/assets/clips"
WARM_UP_S = 120
"""Of silence, after which memory that is allocated once has been."""


async def silence(seconds: float, seed: int, *, megabytes: int = 8) -> dict[str, Any]:
    """Case 8: six times as many seconds of silence, an hour in the full form, for the demo model in one stream.

    Fed as fast as it goes. A clip afterwards is heard as it was before; memory grows by less than `megabytes`.
    """
    clip = json.loads(random.Random(seed).choice((CLIPS / "clips.jsonl").read_text().splitlines()))
    with wave.open(str(CLIPS / clip["file"])) as wav:
        rate, pcm = wav.getframerate(), wav.readframes(wav.getnframes())
    second, count = audio(silent(1.0)), int(6 * seconds)
    service = AsrService(ASR_MODEL="demo", ASR_ATT_CTX="70,13", ASR_MAX_STREAMS=2, ASR_THREADS=1, wait=False)
    with service:
        service.wait_ready(PATIENCE_S)
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub = asr_pb2_grpc.SpeechServiceStub(channel)
            before = await transcribe(stub, pcm, sample_rate_hertz=rate)
            await talk(stub, [config(), *[second] * WARM_UP_S])
            memory = resident_bytes(service.pid)

            async def requests() -> AsyncIterator[pb.RecognizeRequest]:
                yield config(word_times=True)
                for _ in range(count):
                    yield second

            heard = await talk(stub, requests())
            assert [response.result.text for response in heard if response.result.text] == []
            assert heard[-1].result.is_final and heard[-1].audio_processed_ms == 1000 * count
            grown = resident_bytes(service.pid) - memory
            assert grown < megabytes << 20, f"memory has grown by {grown} bytes"
            assert await transcribe(stub, pcm, sample_rate_hertz=rate) == before != ""
    return {"seconds of silence": count, "words": 0, "memory grown by, kB": grown // 1024}

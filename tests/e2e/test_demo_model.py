"""The service with the bundled demo model: its words, and an hour without any."""

from __future__ import annotations

import json
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from tests.support.audio import silence
from tests.support.process import ROOT, AsrService
from tests.support.rpc import audio, config, talk, transcribe

CLIPS = ROOT / "asr_service/assets/clips"


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.timeout(900)  # half a minute of work, where nothing else runs
async def test_an_hour_of_silence_has_no_words_and_leaves_nothing_behind() -> None:
    """Fed as fast as it goes; a clip afterwards is heard as it was before."""
    clip = json.loads((CLIPS / "clips.jsonl").read_text().splitlines()[0])
    with wave.open(str(CLIPS / clip["file"])) as wav:
        rate, pcm = wav.getframerate(), wav.readframes(wav.getnframes())
    minute = [audio(silence(1.0))] * 60
    service = AsrService(ASR_MODEL="demo", ASR_ATT_CTX="70,13", ASR_MAX_STREAMS=2, ASR_THREADS=1, wait=False)
    with service:
        service.wait_ready(300)
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub = asr_pb2_grpc.SpeechServiceStub(channel)
            before = await transcribe(stub, pcm, sample_rate_hertz=rate)
            await talk(stub, [config(), *minute * 2])  # memory that is allocated once has been
            memory = resident_bytes(service.pid)

            async def requests() -> AsyncIterator[pb.RecognizeRequest]:
                yield config(word_times=True)
                for _ in range(60):
                    for packet in minute:
                        yield packet

            heard = await talk(stub, requests())
            assert [response.result.text for response in heard if response.result.text] == []
            assert heard[-1].result.is_final and heard[-1].audio_processed_ms == 3_600_000
            assert resident_bytes(service.pid) - memory < 8 << 20
            assert await transcribe(stub, pcm, sample_rate_hertz=rate) == before != ""

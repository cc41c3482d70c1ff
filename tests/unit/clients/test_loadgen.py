"""The load generator's exit codes, which scripts read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc.aio
from asr.v1 import asr_pb2_grpc

from tests.support.process import AsrService, run_python
from tests.support.rpc import config


async def test_a_search_that_finds_no_stream_sustained_has_failed(tmp_path: Path) -> None:
    """As where somebody else has all places: each stream is refused."""
    found = tmp_path / "found.json"
    with AsrService(ASR_MAX_STREAMS=1, ASR_MAX_LOAD=0) as service:
        options = [
            "--grpc",
            service.target,
            "--duration",
            0.5,
            "--ramp",
            0,
            "--limit-ms",
            60_000,
            "--json",
            found,
        ]
        search = ["-m", "clients.loadgen", "--find-max", "--streams", 2, *options]
        async with grpc.aio.insecure_channel(service.target) as channel:
            held = asr_pb2_grpc.SpeechServiceStub(channel).Recognize()
            await held.write(config())
            await held.initial_metadata()
            done = await asyncio.to_thread(run_python, *search)
            assert (done.returncode, "most streams sustained: 0" in done.stdout) == (1, True), done.stderr
            assert json.loads(found.read_text())["max_streams"] == 0
            held.cancel()
        done = await asyncio.to_thread(run_python, *search)
        assert (done.returncode, "most streams sustained: 1" in done.stdout) == (0, True), done.stdout

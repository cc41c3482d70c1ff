"""Saying no: what the machine sustains is measured, and who would be too much is told so."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from tests.support.audio import speechlike
from tests.support.process import PATIENCE_S, AsrService, children
from tests.support.rpc import Stub, audio, config, details, retry_after_s, talk, text, transcribe
from ws_bridge.call import Call

CHUNK_BYTES = 5120
CHUNK_S = 0.16


async def paced(stub: Stub, pcm: bytes) -> str:
    """The finals of a stream that is sent as it would be spoken."""
    call = stub.Recognize()
    await call.write(config())
    start = asyncio.get_running_loop().time()
    for number, begin in enumerate(range(0, len(pcm), CHUNK_BYTES)):
        await asyncio.sleep(start + number * CHUNK_S - asyncio.get_running_loop().time())
        await call.write(audio(pcm[begin : begin + CHUNK_BYTES]))
    await call.done_writing()
    return text([response async for response in call])


def is_stopped(pid: int) -> bool:
    """Whether the process waits for SIGCONT."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")


async def stopped_engine(service: AsrService) -> int:
    """Waits until the service's engine has stopped itself; its process id."""
    async with asyncio.timeout(PATIENCE_S):
        while not (stopped := [pid for pid in children(service.pid) if is_stopped(pid)]):
            assert service.popen.poll() is None, service.output
            await asyncio.sleep(0.05)  # nothing tells when another's child has stopped
    return stopped[0]


async def service_info(stub: Stub) -> pb.GetServiceInfoResponse:
    """What the service says of itself."""
    return await stub.GetServiceInfo(pb.GetServiceInfoRequest())


def move(pid: int, cores: set[int]) -> None:
    """Lets all threads of a process run on these cores only."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


@contextmanager
def busy(count: int, cores: set[int]) -> Iterator[None]:
    """So many programs that never rest, on these cores."""
    programs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        for program in programs:
            move(program.pid, cores)
        yield
    finally:
        for program in programs:
            program.kill()
        for program in programs:
            program.wait()


async def refusal(stub: Stub) -> grpc.aio.AioRpcError:
    """Opens a stream again and again until one is refused."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await talk(stub, [config()])
            except grpc.aio.AioRpcError as error:
                return error
            await asyncio.sleep(0.1)  # the load is another process's, and nothing tells when it has risen


async def test_what_is_measured_is_the_limit_and_is_shown() -> None:
    """Steps of 20 ms a stream: 120 of a chunk's 160 ms are for six; on a busy machine fewer are found."""
    with AsrService(FAULT="rows") as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            info = await service_info(stub)
            assert 1 <= info.measured_streams <= 6
            assert info.max_streams == info.measured_streams
            assert 1 <= int(service.wait_line(r"sustains (\d+) live streams").group(1)) <= 6
            calls = [Call(stub) for _ in range(7)]
            for call in calls:
                await call.write(config())
            admitted = [await call.admitted() for call in calls]
            assert 1 <= admitted.count(True) <= 6
            refused = await calls[admitted.index(False)].outcome()
            assert refused.number == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            for call in calls:
                call.cancel()
        assert service.stop() == 0


async def test_a_limit_that_was_found_under_load_rises_when_the_load_is_gone() -> None:
    """The engine starts as one of 41 programs that share a core, which leave it a step of 410 ms for a stream.

    Its steps take 10 ms of the core's time for each stream: alone it has time for twelve, on a busy machine for fewer.
    """
    core = {min(os.sched_getaffinity(0))}
    with AsrService(FAULT="burn", wait=False) as service:
        engine = await stopped_engine(service)
        with busy(40, core):
            move(engine, core)
            os.kill(engine, signal.SIGCONT)
            async with grpc.aio.insecure_channel(service.target) as channel:
                stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
                found = await service_info(stub)
        assert found.max_streams == found.measured_streams == 1
        move(engine, os.sched_getaffinity(0))
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub = asr_pb2_grpc.SpeechServiceStub(channel)
            async with asyncio.timeout(PATIENCE_S):
                while (info := await service_info(stub)).max_streams < 3:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)  # nothing tells when it has measured
            assert info.measured_streams == info.max_streams <= 12
            calls = [Call(stub) for _ in range(2)]
            for call in calls:
                await call.write(config())
            assert [await call.admitted() for call in calls] == [True, True], (
                "the second would have been refused"
            )
            for call in calls:
                call.cancel()
        service.wait_line(r"sustains \d+ live streams, 1 before")
        assert service.stop() == 0


async def test_a_limit_that_is_set_is_not_probed(stub: Stub) -> None:
    info = await service_info(stub)
    assert (info.max_streams, info.measured_streams) == (16, 0)


async def test_overload_refuses_newcomers_and_serves_the_others_exactly() -> None:
    """Twelve live streams at 20 ms each for a chunk of 160 ms; when they are gone, others are let in again."""
    pcm = speechlike(6.0, seed=3)
    with AsrService(FAULT="rows", ASR_MAX_STREAMS=64) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, pcm)
            crowd = [asyncio.create_task(paced(stub, pcm)) for _ in range(12)]
            error = await refusal(stub)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details(error)["ErrorInfo"].reason == "OVERLOADED"  # type: ignore[attr-defined]
            assert retry_after_s(error) > 0
            assert (await service_info(stub)).load > 1
            assert await asyncio.gather(*crowd) == [expected] * 12
            async with asyncio.timeout(PATIENCE_S):
                while (await service_info(stub)).load > 1:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)  # nothing tells when it has fallen
            assert await transcribe(stub, pcm[:32_000])
        assert service.stop() == 0

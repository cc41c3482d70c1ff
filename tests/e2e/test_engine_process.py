"""The service's processes: none outlives it, one that ends is started again, and what happens to it is told."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from asr_service.access.api_keys import new_key
from testbed.processes import children, free_port
from tests.support.audio import FULL_SCALE, speechlike
from tests.support.certificates import Authority
from tests.support.process import AsrService
from tests.support.rpc import Stub, audio, config, retry_after_s, talk, text, transcribe
from ws_bridge.call import Call

PCM = speechlike(2.0, seed=61)


async def until_gone(pid: int) -> None:
    """Returns once the process has ended, be it that nobody has reaped it yet."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), 20)
    finally:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV], ids=["killed", "crashed"])
async def test_an_engine_that_is_gone_ends_its_streams_and_is_started_again(how: signal.Signals) -> None:
    """Every stream is told at once, health turns, and turns back once there is another engine."""
    with AsrService() as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, PCM)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            call = Call(stub)
            await call.write(config())
            assert await call.admitted()
            await call.write(audio(PCM))
            os.kill(service.engine, how)
            async for _ in call.responses():
                pass
            outcome = await call.outcome()
            assert outcome.number == grpc.StatusCode.UNAVAILABLE.value[0]
            assert "the engine has stopped" in outcome.message
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            service.wait_line(rf"engine 0 has ended by signal {how.value} \({how.name}\)")
            service.wait_line("engine 0 is started again")
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            assert await transcribe(stub, PCM) == expected
        assert service.stop() == 0


async def test_a_front_end_that_is_gone_frees_its_slots_and_is_started_again() -> None:
    with AsrService(ASR_MAX_STREAMS=1) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            call = Call(stub)
            await call.write(config())
            assert await call.admitted()
            os.kill(service.front_end, signal.SIGKILL)
            async for _ in call.responses():
                pass
            assert (await call.outcome()).number == grpc.StatusCode.UNAVAILABLE.value[0]
        service.wait_line("a front end is gone: 1 slots are free again")
        service.wait_line("everything runs again")
        async with grpc.aio.insecure_channel(service.target) as channel:
            assert await transcribe(asr_pb2_grpc.SpeechServiceStub(channel), PCM)
        assert service.stop() == 0


async def test_what_ends_again_and_again_ends_the_service() -> None:
    with AsrService() as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            for _ in range(4):
                os.kill(service.engine, signal.SIGKILL)
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            os.kill(service.engine, signal.SIGKILL)
            service.wait_line("engine 0 is not started again: it has ended too often")
        assert service.wait() == 1


async def test_all_processes_go_with_the_service() -> None:
    with AsrService(ASR_METRICS_PORT=free_port()) as service:
        processes = children(service.pid)
        assert len(processes) == 3
        service.signal(signal.SIGKILL)
        service.wait()
        for process in processes:
            await until_gone(process)


def test_what_handles_packets_does_not_displace_steps() -> None:
    """Every thread of the event loop's process, those of gRPC too, and none of the engine's."""
    with AsrService() as service:
        for pid, policy in ((service.front_end, os.SCHED_BATCH), (service.engine, os.SCHED_OTHER)):
            threads = Path(f"/proc/{pid}/task").iterdir()
            assert {os.sched_getscheduler(int(thread.name)) for thread in threads} == {policy}


async def test_signals_of_a_terminal_are_the_services_to_answer() -> None:
    """Ctrl-C reaches all processes; the stream that is open gets its text."""
    with AsrService() as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, PCM)
            call = stub.Recognize()
            await call.write(config())
            await call.initial_metadata()
            await call.write(audio(PCM))
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(service.engine, number)
                os.kill(service.front_end, number)
            service.signal(signal.SIGINT)
            service.wait_line("SIGINT: draining 1 streams")
            await call.done_writing()
            assert text([response async for response in call]) == expected != ""
        assert service.wait() == 0


async def test_a_step_that_hangs_is_shown_where_it_hangs() -> None:
    with AsrService(FAULT="hang", ASR_WATCHDOG_S=1) as service:
        engine = service.engine
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await talk(stub, [config(), audio(FULL_SCALE)])
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE and retry_after_s(caught.value) > 0
            await until_gone(engine)
            assert "faulty_service.py" in service.output and "in step" in service.output, (
                "the stacks of the engine"
            )
            service.wait_line("everything runs again")
            assert await transcribe(stub, PCM)


async def test_more_audio_than_the_pipe_holds() -> None:
    """Streams that send all they have at once, while the engine is busy: each text is exact."""
    pcm = speechlike(8.0, seed=62)
    with AsrService(FAULT="slow", ASR_MAX_STREAMS=40, ASR_MAX_LOAD=0, ASR_INBOX_S=60) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, pcm, 64_000)
            requests: list[pb.RecognizeRequest] = [config(), audio(pcm)]
            heard = await asyncio.gather(*(talk(stub, requests) for _ in range(40)))
        assert {text(one) for one in heard} == {expected}
        assert service.stop() == 0


def memory_holds(pid: int, secret: bytes) -> bool:
    """Whether a process has these bytes in the memory that it may write to."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in place.split("-"))
            memory.seek(start)
            try:
                if secret in memory.read(end - start):
                    return True
            except OSError:
                # Some of the kernel's own pages cannot be read.
                continue
    return False


def test_the_engines_process_has_neither_keys_nor_certificates(tmp_path: Path) -> None:
    """It runs native code on what clients send: what it does not have, nobody gets out of it."""
    certificate, private_key = Authority(tmp_path).issue("server")
    _, line = new_key("somebody")
    digest = bytes.fromhex(line.partition(":")[2])
    keys = tmp_path / "keys"
    keys.write_text(line + "\n")
    pem = private_key.read_text().splitlines()[1].encode()
    with AsrService(ASR_TLS_CERT=certificate, ASR_TLS_KEY=private_key, ASR_API_KEYS_FILE=keys) as service:
        try:
            assert memory_holds(service.front_end, digest) and memory_holds(service.front_end, pem)
        except PermissionError:
            pytest.skip("this system lets nobody read another process's memory")
        assert not memory_holds(service.engine, digest)
        assert not memory_holds(service.engine, pem)

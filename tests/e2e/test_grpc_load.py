"""Saying no: what the machine sustains is measured, and who would be too much is told so."""

from __future__ import annotations

import asyncio

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from tests.support.audio import speechlike
from tests.support.process import PATIENCE_S, AsrService
from tests.support.rpc import Stub, audio, config, details, failure, retry_after_s, talk, text, transcribe

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


async def refusal(stub: Stub) -> grpc.aio.AioRpcError:
    """Opens a stream again and again until one is refused."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await talk(stub, [config()])
            except grpc.aio.AioRpcError as error:
                return error
            await asyncio.sleep(0.1)  # the load is another process's, and nothing tells when it has risen


async def test_the_probe_is_the_limit_and_is_shown() -> None:
    """Steps of 20 ms a stream: 120 of a chunk's 160 ms are for six; on a busy machine the probe finds fewer."""
    with AsrService(FAULT="rows") as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            info = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
            assert 1 <= info.measured_streams <= 6
            assert info.max_streams == info.measured_streams
            service.wait_line(f"sustains {info.measured_streams} live streams")
            held = [stub.Recognize() for _ in range(info.max_streams)]
            for call in held:
                await call.write(config())
                await call.initial_metadata()
            error = await failure(stub, [config()])
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            for call in held:
                call.cancel()
        assert service.stop() == 0


async def test_a_limit_that_is_set_is_not_probed(stub: Stub) -> None:
    info = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
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
            assert (await stub.GetServiceInfo(pb.GetServiceInfoRequest())).load > 1
            assert await asyncio.gather(*crowd) == [expected] * 12
            async with asyncio.timeout(PATIENCE_S):
                while (await stub.GetServiceInfo(pb.GetServiceInfoRequest())).load > 1:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)  # nothing tells when it has fallen
            assert await transcribe(stub, pcm[:32_000])
        assert service.stop() == 0

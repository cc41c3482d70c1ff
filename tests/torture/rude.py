"""python -m tests.torture.rude HOST:PORT: clients without manners, in a process of their own, until it is killed.

One reads nothing, one sends a byte a second, one sends a hundred seconds of audio a second. They are not in the process
of the clients that are measured, since what a crowded client does to itself is not the service's doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterable, AsyncIterator

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from clients.pacing import duration_s
from tests.support.audio import RATE, speechlike
from tests.support.rpc import Stub, audio, config

COUNT = 3
HERE = "here"
"""What it prints once for each of them that was admitted."""


async def slow() -> AsyncIterator[bytes]:
    while True:
        yield b"\x01"
        await asyncio.sleep(1.0)


async def fast() -> AsyncIterator[bytes]:
    """A hundred seconds of audio a second."""
    pcm = speechlike(5.0, seed=1)
    while True:
        yield pcm
        await asyncio.sleep(duration_s(pcm, RATE) / 100)


async def talk(target: str, pieces: AsyncIterator[bytes], *, reads: bool) -> None:
    """One of them; comes back when its stream was ended."""
    small = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
    while True:
        async with grpc.aio.insecure_channel(target, options=() if reads else small) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            call = stub.Recognize()

            async def hear(call: AsyncIterable[object] = call) -> None:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for _ in call:
                        pass

            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(config(endpointing=pb.Endpointing(trailing_silence_ms=100)))
                await call.initial_metadata()
                print(HERE, flush=True)
                hearing = asyncio.create_task(hear()) if reads else None
                async for piece in pieces:
                    await call.write(audio(piece))
                if hearing is not None:
                    hearing.cancel()


async def main(target: str) -> None:
    async with asyncio.TaskGroup() as group:
        for pieces, reads in ((fast(), False), (slow(), True), (fast(), True)):
            group.create_task(talk(target, pieces, reads=reads))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

"""Connections to each of a service's front ends: the kernel deals them out, and the service's log tells to which."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import grpc.aio
from asr.v1 import asr_pb2_grpc

from tests.support.process import AsrService
from tests.support.rpc import config

ALONE = (("grpc.use_local_subchannel_pool", 1),)
"""Options of a channel that shares its connection with no other."""
_MOST = 200
"""Connections after which a front end that none has reached surely takes none: of three, one in 10^35 runs."""


def plain(target: str) -> grpc.aio.Channel:
    """A channel with a connection of its own."""
    return grpc.aio.insecure_channel(target, options=ALONE)


async def front_end_of(
    service: AsrService, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]] = ()
) -> int:
    """The number of the front end that a connection leads to."""
    name = uuid.uuid4().hex
    stub = asr_pb2_grpc.SpeechServiceStub(channel)
    async for _ in stub.Recognize(iter([config(stream_id=name)]), metadata=tuple(metadata)):
        pass
    line = await asyncio.to_thread(service.wait_line, rf"stream ended stream={name} .*\bfront_end=(\d+)")
    return int(line[1])


async def reach_each(
    service: AsrService,
    count: int,
    stack: AsyncExitStack,
    *,
    connect: Callable[[str], grpc.aio.Channel] = plain,
    metadata: Sequence[tuple[str, str]] = (),
) -> list[grpc.aio.Channel]:
    """A connection to each front end, by its number.

    Args:
        service: that logs as text.
        count: how many front ends it has.
        stack: closes the connections.
        connect: makes a channel to HOST:PORT with a connection of its own.
        metadata: of calls that are let in.
    """
    reached: dict[int, grpc.aio.Channel] = {}
    for _ in range(_MOST):
        channel = await stack.enter_async_context(connect(service.target))
        number = await front_end_of(service, channel, metadata)
        if number in reached:
            await channel.close()
        reached.setdefault(number, channel)
        if len(reached) == count:
            return [reached[number] for number in range(count)]
    raise AssertionError(f"of {_MOST} connections, none leads to others than {sorted(reached)}")

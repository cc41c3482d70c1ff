"""A few shared HTTP/2 connections to the speech service, which come back by themselves when they are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
from asr.v1 import asr_pb2_grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_OPTIONS = (
    # Channels with equal options would otherwise share one connection, and its limit of concurrent streams.
    ("grpc.use_local_subchannel_pool", 1),
    # An utterance of hours is a long text, and the service is trusted.
    ("grpc.max_receive_message_length", -1),
    # A service that stopped without a word is found within half a minute. Pings are sent only while streams are open.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A minute unless it is set, and the smaller of the two counts.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC adds a jitter of 20 %, so that many bridges do not come back at the same moment.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # In spite of its name, this is how long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),
)


class Channels:
    """Spreads streams over the connections.

    A stream stays on its channel; a new one takes the least used channel that is not known to be down.
    """

    def __init__(self, target: str, count: int, credentials: grpc.ChannelCredentials | None = None) -> None:
        """`target` need not be up; connecting begins with `keep_warm`. No credentials: no TLS."""
        self._channels = [
            aio.insecure_channel(target, options=_OPTIONS)
            if credentials is None
            else aio.secure_channel(target, credentials, options=_OPTIONS)
            for _ in range(count)
        ]
        self._stubs = [asr_pb2_grpc.SpeechServiceStub(channel) for channel in self._channels]
        self._in_use = [0] * count
        self._next = 0
        self._connected = [False] * count

    @contextmanager
    def lease(self) -> Iterator[asr_pb2_grpc.SpeechServiceAsyncStub]:
        """Gives a stub to open one stream with; its channel counts as used by the stream until the context ends."""
        index = self._pick()
        self._in_use[index] += 1
        try:
            yield self._stubs[index]
        finally:
            self._in_use[index] -= 1

    def _pick(self) -> int:
        count = len(self._channels)
        turn = [(self._next + i) % count for i in range(count)]
        best = min(turn, key=lambda index: (self._is_down(index), self._in_use[index]))
        self._next = (best + 1) % count
        return best

    def _is_down(self, index: int) -> bool:
        return self._channels[index].get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    def keep_warm(self) -> None:
        """Has every channel without a connection make one, as soon as its backoff allows."""
        for channel in self._channels:
            channel.get_state(try_to_connect=True)

    @property
    def ready(self) -> int:
        """How many channels have a connection. Any thread."""
        return sum(self._connected)

    async def watch(self, reconnected: Callable[[], None]) -> None:
        """Follows the connections until cancelled; calls `reconnected` for each that is made again after a loss."""
        async with asyncio.TaskGroup() as group:
            for index in range(len(self._channels)):
                group.create_task(self._follow(index, reconnected))

    async def _follow(self, index: int, reconnected: Callable[[], None]) -> None:
        channel, lost = self._channels[index], False
        while True:
            state = channel.get_state()
            now = state is grpc.ChannelConnectivity.READY
            # Between a loss and the next connection there may be failures, or only an idle state.
            if now and lost:
                reconnected()
            lost = not now and (lost or self._connected[index])
            self._connected[index] = now
            await channel.wait_for_state_change(state)

    async def serving(self, timeout_s: float) -> bool:
        """Asks the service whether it is SERVING; False if it cannot be reached in time."""
        stub = health_pb2_grpc.HealthStub(self._channels[self._pick()])
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Closes all connections, which ends the streams that are left."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

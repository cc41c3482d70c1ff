"""A few shared HTTP/2 connections to the speech service, which come back by themselves when they are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import grpc
from asr.v1 import asr_pb2_grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ws_bridge.tls import ServiceCredentials

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


class _Channel:
    """One connection.

    Attributes:
        stub: opens streams on it.
        in_use: how many calls are on it.
        is_ready: whether it had a connection when that was last looked at.
        follower: the task of `follow`, None before there is one.
    """

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.channel = (
            aio.insecure_channel(target, options=_OPTIONS)
            if credentials is None
            else aio.secure_channel(target, credentials, options=_OPTIONS)
        )
        self.stub: asr_pb2_grpc.SpeechServiceAsyncStub = asr_pb2_grpc.SpeechServiceStub(self.channel)
        self.in_use = 0
        self.is_ready = False
        self.follower: asyncio.Task[None] | None = None

    def is_down(self) -> bool:
        """Whether its connection was lost, or could not be made, and is not back."""
        return self.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def follow(self, reconnected: Callable[[], None]) -> None:
        """Notes how its connection is, until cancelled."""
        lost = False
        while True:
            state = self.channel.get_state()
            now = state is grpc.ChannelConnectivity.READY
            # Between a loss and the next connection there may be failures, or only an idle state.
            if now and lost:
                reconnected()
            lost = not now and (lost or self.is_ready)
            self.is_ready = now
            await self.channel.wait_for_state_change(state)

    async def close(self) -> None:
        """Ends the connection, and streams that are left on it."""
        if self.follower is not None:
            # The state of a closed channel cannot be waited for.
            self.follower.cancel()
            await asyncio.wait([self.follower])
        await self.channel.close()


class Channels:
    """Spreads streams over the connections.

    A stream stays on its channel; a new one takes the least used channel that is not known to be down. Where the
    credentials change, there are new channels for new streams, and each old one is closed after its last stream.
    """

    def __init__(self, target: str, count: int, credentials: ServiceCredentials | None = None) -> None:
        """`target` need not be up; connecting begins with `keep_warm`. No credentials: no TLS."""
        self._target = target
        self._count = count
        self._credentials = credentials
        self._channels = self._make()
        self._next = 0
        # Those before the present ones that streams are left on, and the tasks that close those without any.
        self._old: set[_Channel] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._renewed = asyncio.Event()

    def _make(self) -> Sequence[_Channel]:
        credentials = self._credentials.value if self._credentials is not None else None
        return [_Channel(self._target, credentials) for _ in range(self._count)]

    @contextmanager
    def lease(self) -> Iterator[asr_pb2_grpc.SpeechServiceAsyncStub]:
        """Gives a stub to open one stream with; its channel counts as used by the stream until the context ends."""
        with self._lease() as leased:
            yield leased.stub

    @contextmanager
    def _lease(self) -> Iterator[_Channel]:
        leased = self._pick()
        leased.in_use += 1
        try:
            yield leased
        finally:
            leased.in_use -= 1
            if not leased.in_use and leased in self._old:
                self._old.discard(leased)
                self._close(leased)

    def _pick(self) -> _Channel:
        count = len(self._channels)
        turn = [(self._next + i) % count for i in range(count)]
        best = min(turn, key=lambda at: (self._channels[at].is_down(), self._channels[at].in_use))
        self._next = (best + 1) % count
        return self._channels[best]

    def keep_warm(self) -> None:
        """Has every channel without a connection make one, as soon as its backoff allows."""
        for one in self._channels:
            one.channel.get_state(try_to_connect=True)

    def refresh(self) -> None:
        """Takes new channels in place of these if the credentials' files have changed. On the event loop."""
        if self._credentials is None or self._credentials.newer() is None:
            return
        before, self._channels = self._channels, self._make()
        for one in before:
            if one.in_use:
                self._old.add(one)
            else:
                self._close(one)
        self._renewed.set()
        self.keep_warm()

    def _close(self, one: _Channel) -> None:
        task = asyncio.create_task(one.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    @property
    def ready(self) -> int:
        """How many channels for new streams have a connection. Any thread."""
        return sum(one.is_ready for one in self._channels)

    async def watch(self, reconnected: Callable[[], None]) -> None:
        """Follows the connections until cancelled; calls `reconnected` for each that is made again after a loss."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._renewed.clear()
                for one in self._channels:
                    one.follower = group.create_task(one.follow(reconnected))
                await self._renewed.wait()

    async def serving(self, timeout_s: float) -> bool:
        """Asks the service whether it is SERVING; False if it cannot be reached in time."""
        with self._lease() as leased:
            stub = health_pb2_grpc.HealthStub(leased.channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
            except aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Closes all connections, which ends the streams that are left."""
        left = [one.close() for one in (*self._channels, *self._old)]
        await asyncio.gather(*left, *self._closing)

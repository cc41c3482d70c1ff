"""One request over HTTP, on real sockets: however it is cut, and whatever the client does not do."""

from __future__ import annotations

import asyncio
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import h11
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from tests.support.certificates import Authority
from tests.support.process import PATIENCE_S
from ws_bridge.http_exchange import BodyBroken, BodyLate, HttpExchange

REQUEST = (
    b"POST /a?b=c HTTP/1.1\r\nHost: here\r\nX-One: 1\r\nx-one: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
)


@asynccontextmanager
async def serving(
    handle: Callable[[HttpExchange], Awaitable[None]],
    patience_s: float = PATIENCE_S,
    quiet_s: float = PATIENCE_S,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of a server with this handler."""

    lost = asyncio.Event()

    class Watched(HttpExchange):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    def exchange() -> HttpExchange:
        return Watched(handle, max_header_bytes=4_096, patience_s=patience_s, quiet_s=quiet_s)

    server = await asyncio.get_running_loop().create_server(exchange, "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            await lost.wait()


async def echo(exchange: HttpExchange) -> None:
    body = b""
    while part := await exchange.read():
        body += part
    told = f"{exchange.method} {exchange.target} {exchange.headers.get_all('X-One')} ".encode()
    await exchange.respond(200, told + body, [("Content-Type", "text/plain")])


@given(st.lists(st.integers(1, len(REQUEST)), max_size=8))
def test_a_request_is_the_same_however_it_is_cut(places: list[int]) -> None:
    async def run() -> None:
        async with serving(echo) as (reader, writer):
            ends = [*sorted(places), len(REQUEST)]
            for start, end in zip([0, *ends], ends, strict=False):
                writer.write(REQUEST[start:end])
                await writer.drain()
                await asyncio.sleep(0)
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"Connection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\nPOST /a?b=c ['1', '2'] hello world")

    asyncio.run(run())


async def test_a_large_body_waits_for_who_reads_it() -> None:
    size, go_on = 64 * 1024 * 1024, asyncio.Event()

    async def slow(exchange: HttpExchange) -> None:
        await go_on.wait()
        total = 0
        while part := await exchange.read():
            total += len(part)
        await exchange.respond(200, str(total).encode(), [])

    async with serving(slow) as (reader, writer):
        writer.write(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
        writer.transport.set_write_buffer_limits(0)
        sent, piece = 0, bytes(1024 * 1024)

        async def send() -> None:
            nonlocal sent
            while sent < size:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)

        sending = asyncio.create_task(send())
        before = -1
        while before != sent or not sent:
            before = sent
            await asyncio.sleep(0.1)  # what would be taken without being read is taken by then
        assert sent < size // 2
        go_on.set()
        await sending
        assert (await reader.read()).endswith(str(size).encode())


async def test_what_follows_the_body_is_not_kept() -> None:
    read, go_on = asyncio.Event(), asyncio.Event()

    async def busy(exchange: HttpExchange) -> None:
        while await exchange.read():
            pass
        read.set()
        await go_on.wait()
        await exchange.respond(200, b"done", [])

    async with serving(busy) as (reader, writer):
        writer.transport.set_write_buffer_limits(0)
        writer.write(REQUEST)
        await read.wait()
        piece = bytes(1024 * 1024)
        tracemalloc.start()
        try:
            for _ in range(64):
                writer.write(piece)
                await writer.drain()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 16 * len(piece)
        go_on.set()
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200 ")


async def test_a_slow_reader_that_reads_all_the_time_gets_everything() -> None:
    """The time that a client has is for a piece of the response, and begins anew with the next."""
    size, quiet_s = 24 * 1024 * 1024, 2.0

    async def large(exchange: HttpExchange) -> None:
        await exchange.respond(200, bytes(size), [])

    async with serving(large, quiet_s=quiet_s) as (reader, writer):
        loop = asyncio.get_running_loop()
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"Content-Length: {size}".encode() in head
        left, slow_until = size, loop.time() + 3 * quiet_s
        while left:
            left -= len(await reader.readexactly(min(left, 64 * 1024)))
            if loop.time() < slow_until:
                # How slowly it reads is what is tested; what sockets hold is read soon.
                await asyncio.sleep(0.02)
        assert await reader.read() == b""


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
@pytest.mark.parametrize("records", range(1, 6))
def test_a_response_over_tls_comes_whole(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop], records: int
) -> None:
    """However many records the request comes in, some of them behind its end: TLS looks at what waits with each."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("here")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    trust = ssl.create_default_context(cafile=str(authority.cert))

    async def large(exchange: HttpExchange) -> None:
        while await exchange.read():
            pass
        await exchange.respond(200, bytes(200_000), [])

    async def run() -> bytes:
        def exchange() -> HttpExchange:
            return HttpExchange(large, max_header_bytes=4_096, patience_s=PATIENCE_S, quiet_s=PATIENCE_S)

        server = await asyncio.get_running_loop().create_server(exchange, "127.0.0.1", 0, ssl=context)
        async with server, asyncio.timeout(PATIENCE_S):
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address, ssl=trust, server_hostname="localhost")
            for record in (
                [REQUEST[:99], REQUEST[99:], *[b"more"] * 3][:records] if records > 1 else [REQUEST]
            ):
                writer.write(record)
                await writer.drain()
                await asyncio.sleep(0)
            answer = await reader.read()
            writer.transport.abort()
            return answer

    with asyncio.Runner(loop_factory=new_loop) as runner:
        _, _, body = runner.run(run()).partition(b"\r\n\r\n")
    assert body == bytes(200_000)


async def test_an_early_response_is_read_though_the_body_is_still_coming() -> None:
    async def refuse(exchange: HttpExchange) -> None:
        await exchange.respond(413, b"too large", [])

    async with serving(refuse) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")

        async def send() -> None:
            for _ in range(50):
                writer.write(bytes(1_000_000))
                await writer.drain()

        sending = asyncio.create_task(send())
        assert (await reader.read(100)).startswith(b"HTTP/1.1 413 ")
        await sending


@pytest.mark.parametrize("mute", ["body", "response"])
async def test_clients_that_do_nothing_are_given_up(mute: str) -> None:
    ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def handle(exchange: HttpExchange) -> None:
        try:
            await exchange.read()
            await exchange.start(200, [])
            while True:
                await exchange.send(bytes(1_000_000))
        except (BodyBroken, BodyLate) as error:
            ended.set_result(error)
            raise BodyBroken from None

    async with serving(handle, quiet_s=0.2) as (_, writer):
        writer.write(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n" + (b"" if mute == "body" else b"x")
        )
        assert isinstance(await ended, BodyLate if mute == "body" else BodyBroken)


async def test_a_client_that_goes_cancels_the_work() -> None:
    reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled = asyncio.Event()

    async def handle(exchange: HttpExchange) -> None:
        while await exchange.read():
            pass
        reached.set_result(None)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(handle) as (_, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n" + bytes(600_000))
        await reached
        writer.close()
        await cancelled.wait()


@pytest.mark.parametrize("sent", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: a\r\n"])
async def test_a_start_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    async with serving(echo, patience_s=0.2) as (reader, writer):
        writer.write(sent)
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass


async def test_a_handler_that_fails_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(exchange: HttpExchange) -> None:
        raise RuntimeError("a bug")

    async with serving(handle) as (reader, writer):
        writer.write(REQUEST)
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
    assert "a bug" in caplog.text


def test_h11_reads_headers_as_strictly_as_is_known_here() -> None:
    """What the exchange counts on: a header may not end a line early."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n")
    with pytest.raises(h11.RemoteProtocolError):
        connection.next_event()

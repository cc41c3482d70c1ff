from __future__ import annotations

import asyncio

import uvloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from ws_bridge.connection import Connection


def test_a_connection_that_has_just_been_closed_is_left_to_its_end() -> None:
    """Its socket is no socket any more, which whoever looks after all connections has to survive."""

    async def main() -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def handle(connection: ServerConnection) -> None:
            assert isinstance(connection, Connection)
            connection.transport.pause_reading()
            assert not connection.is_dead(60.0)
            connection.abort()
            await connection.wait_closed()
            answer.set_result(connection.is_dead(60.0))

        async with serve(handle, "127.0.0.1", 0, create_connection=Connection) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}"):
                return await answer

    assert uvloop.run(asyncio.wait_for(main(), 20)) is False

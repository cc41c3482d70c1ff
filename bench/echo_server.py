"""Serves bare grpc.aio, on the service's event loop, and sends every message back: what the transport alone costs.

    python -m bench.echo_server

Prints `serving grpc on HOST:PORT` once it serves, which is what `testbed.processes.Server` waits for.
"""

from __future__ import annotations

from typing import Any

import grpc.aio
import uvloop
from asr.v1 import asr_pb2 as pb


async def echo(_requests: Any, context: Any) -> None:
    """Sends every message back."""
    await context.send_initial_metadata(())
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(request)


async def main() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.stream_stream_rpc_method_handler(
        echo,
        request_deserializer=pb.RecognizeRequest.FromString,
        response_serializer=pb.RecognizeRequest.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("asr.v1.SpeechService", {"Recognize": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"serving grpc on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())

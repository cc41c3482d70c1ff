"""Streams an audio file to the WebSocket bridge and shows the words as they come.

    python clients/ws_client_wav.py hello.wav ws://localhost:8080 call-17

Exit codes: 0 the stream ended well, 1 the service refused or failed it, 2 the file or an argument cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import websockets

if not __package__:  # run as a script: the project is where its packages are
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients import access, recognition_options
from clients.display import LiveText, in_brackets
from clients.handshake import NoConnection, connect
from clients.pacing import Pacer, duration_s, packets
from clients.wav import WavError, read_wav

RATE = 16_000


class Refused(Exception):
    """The bridge ended the stream; the message is one line."""


async def send(socket: websockets.ClientConnection, pcm: bytes, args: argparse.Namespace) -> float:
    """Sends init, the audio at the pace asked for, and close; returns the time `close` was sent."""
    init: dict[str, object] = {"op": "init", "sid": args.sid, "sr": RATE}
    if args.endpoint_ms is not None:
        init["endpoint_ms"] = args.endpoint_ms
    if args.words:
        init["words"] = True
    init |= recognition_options.route_fields(args)
    if args.phrase:
        init["phrases"] = args.phrase
    if args.boost is not None:
        init["boost"] = args.boost
    await socket.send(json.dumps(init))
    pacer = Pacer()
    for packet in packets(pcm, RATE, args.packet_ms):
        if args.realtime:
            await pacer.wait(duration_s(packet, RATE))
        await socket.send(packet)
    await socket.send(json.dumps({"op": "close", "sid": args.sid}))
    return time.monotonic()


async def receive(socket: websockets.ClientConnection, screen: LiveText) -> float:
    """Shows results up to the end of the stream; returns the time the last final came.

    Raises:
        Refused: the stream ended with an error, or without a word.
    """
    last = 0.0
    error = ""
    try:
        while True:
            raw = await socket.recv()
            try:
                message = json.loads(raw)
            except ValueError:
                raise Refused(f"not the bridge's protocol: {raw[:60]!r}") from None
            match message["op"]:
                case "interim":
                    screen.interim(message["text"])
                case "final":
                    last = time.monotonic()
                    screen.final(message["text"], in_brackets(message.get("language", "")))
                    for word in message.get("words", ()):
                        start, end = word["start_ms"] / 1000, word["end_ms"] / 1000
                        print(f"    {start:8.2f} {end:8.2f}  {word['confidence']:.2f}  {word['word']}")
                case "error":
                    error = f"{message['code']}: {message['message']}"
                    if "retry_after_ms" in message:
                        error += f" (try again in {message['retry_after_ms'] / 1000:g} s)"
    except websockets.ConnectionClosed as closed:
        if last and closed.rcvd is not None and closed.rcvd.code == 1000:
            return last
        why = (
            f"closed with {closed.rcvd.code} {closed.rcvd.reason}".rstrip()
            + ("" if last else " before a final")
            if closed.rcvd
            else "the connection was lost"
        )
        raise Refused(error or why) from None


async def run(args: argparse.Namespace, pcm: bytes) -> int:
    """Streams the audio and shows what comes back; returns the exit code."""
    screen = LiveText()
    try:
        async with await connect(
            args.url, args.access.websocket_tls(args.url), args.access.headers()
        ) as socket:
            sending = asyncio.create_task(send(socket, pcm, args))
            try:
                final_at = await receive(socket, screen)
                closed_at = await sending
            except websockets.ConnectionClosed:
                raise Refused("the server ended the stream before all the audio was sent") from None
            finally:
                screen.close()
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
    except (NoConnection, Refused) as failed:
        print(f"{args.url}: {failed}", file=sys.stderr)
        return 1
    if args.realtime:
        took = 1000 * (final_at - closed_at)
        print(
            f"{duration_s(pcm, RATE):.1f} s of audio; last final {took:.0f} ms after close", file=sys.stderr
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="ws_client_wav", description="Streams an audio file over WebSocket and shows the words."
    )
    parser.add_argument("wav", help="audio file: WAV, FLAC, OGG; any rate, any number of channels")
    parser.add_argument("url", nargs="?", default="ws://localhost:8080", help="of the bridge (%(default)s)")
    parser.add_argument("sid", nargs="?", default="wav", help="label of the stream (%(default)s)")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--realtime", action="store_true", default=True, help="at the pace of a live speaker (default)"
    )
    pace.add_argument("--fast", dest="realtime", action="store_false", help="as fast as the service takes it")
    parser.add_argument("--packet-ms", type=float, default=20.0, help="length of a packet (%(default)g)")
    parser.add_argument("--words", action="store_true", help="show words with times and confidence")
    recognition_options.add_recognition(parser)
    access.add_options(parser)
    args = parser.parse_args(argv)
    args.access = access.chosen(args, parser)
    if not args.packet_ms > 0:
        parser.error("--packet-ms should be more than 0")
    if not args.url.startswith(("ws://", "wss://")):
        parser.error(f"url {args.url!r} should start with ws:// or wss://, such as ws://localhost:8080")
    try:
        pcm = read_wav(args.wav, RATE)
    except WavError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        return asyncio.run(run(args, pcm))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""Opens many paced streams over gRPC or WebSocket and tells how well they were served.

    python -m clients.loadgen --streams 100 --duration 30
    python -m clients.loadgen --streams 2000 --channels 32
    python -m clients.loadgen --ws ws://localhost:8080 --streams 100 --json load.json
    python -m clients.loadgen --find-max --duration 15

Latency of an interim: from sending the packet that completes the audio it takes into account, until it is received.
Exit codes: 0 all streams ended well, or --find-max has found some that are sustained, 1 some did not, or none is
sustained, or nobody answered, 2 an argument cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.v1 import asr_pb2 as pb
from rich.console import Console

from clients import access, recognition_options
from clients.handshake import NoConnection
from clients.loadgen.plan import RATE, Heard, Plan, noise
from clients.loadgen.report import show, summarize
from clients.loadgen.streams import CHANNELS, GrpcRunner, WebSocketRunner, run_streams
from clients.wav import WavError, read_wav

CONNECT_S = 5.0


async def probe(
    runner: GrpcRunner | WebSocketRunner, plan: Plan, streams: int, ramp_s: float, limit_s: float
) -> dict[str, Any]:
    """Runs so many streams to their end; returns the figures."""
    done: list[Heard] = []
    begin = time.monotonic()
    await run_streams(runner, plan, streams, ramp_s, done.append)
    return summarize(done, plan, time.monotonic() - begin, limit_s)


async def find_max(
    runner: GrpcRunner | WebSocketRunner, plan: Plan, args: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Finds the most streams that are all sustained: doubles them until some are not, then halves in between."""
    tried: dict[int, dict[str, Any]] = {}

    async def holds(streams: int) -> bool:
        report = await probe(runner, plan, streams, args.ramp, args.limit_ms / 1000)
        tried[streams] = report
        ok = bool(report["sustained"] == streams)
        p95 = report["interim_latency_ms"].get("p95", float("nan"))
        console.print(
            f"  {streams:5d} streams: {'sustained' if ok else 'not sustained'} (interim p95 {p95:.0f} ms)"
        )
        return ok

    low, high = 0, args.streams
    while await holds(high):
        low, high = high, high * 2
    while high - low > max(1, low // 20):  # within 5 %
        middle = (low + high) // 2
        if await holds(middle):
            low = middle
        else:
            high = middle
    best = tried[low] if low else tried[high]
    return best | {
        "max_streams": low,
        "tried": {str(count): one["sustained"] for count, one in tried.items()},
    }


async def run(args: argparse.Namespace, pcm: bytes) -> int:
    """Runs what the command line asks for; returns the exit code."""
    console = Console()
    plan = Plan.of(
        pcm,
        args.packet_ms,
        args.duration,
        finalize_every_s=args.finalize_every,
        realtime=not args.fast,
    )
    where = args.ws or args.grpc
    runner: GrpcRunner | WebSocketRunner
    if args.ws:
        runner = WebSocketRunner(args.ws, access=args.access, init=recognition_options.route_fields(args))
    else:
        config = pb.RecognitionConfig(
            language_code=args.language, model=args.model, look_ahead_ms=args.look_ahead
        )
        runner = GrpcRunner(
            args.grpc, plan, channels=args.channels or CHANNELS, access=args.access, config=config
        )
    try:
        await runner.connect(CONNECT_S)
    except TimeoutError:
        print(f"{where}: nobody answers there", file=sys.stderr)
        return 1
    except NoConnection as failed:
        print(f"{where}: {failed}", file=sys.stderr)
        return 1
    try:
        if args.find_max:
            report = await find_max(runner, plan, args, console)
        else:
            report = await probe(runner, plan, args.streams, args.ramp, args.limit_ms / 1000)
    finally:
        await runner.close()
    report["target"] = where
    show(report, console)
    if args.find_max:
        console.print(f"most streams sustained: {report['max_streams']}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    if args.find_max:
        return 0 if report["max_streams"] else 1
    return 0 if report["outcomes"] == {"ok": args.streams} else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m clients.loadgen",
        description="Opens many paced streams and tells how well they were served.",
    )
    parser.add_argument("--streams", type=int, default=10, help="streams at the same time (%(default)s)")
    parser.add_argument(
        "--duration", type=float, default=20.0, help="seconds of audio of each stream (%(default)g)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--grpc", default="localhost:50051", metavar="HOST:PORT", help="the service (%(default)s)"
    )
    where.add_argument("--ws", metavar="URL", help="the bridge instead, such as ws://localhost:8080")
    parser.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help=f"connections to the service that the streams share: each leads to one of its front ends ({CHANNELS}); "
        "over WebSocket, each stream has its own",
    )
    parser.add_argument("--wav", help="audio file that every stream sends, round and round (bursts of noise)")
    recognition_options.add_route(parser)
    parser.add_argument("--packet-ms", type=float, default=20.0, help="length of a packet (%(default)g)")
    parser.add_argument(
        "--ramp", type=float, default=2.0, help="seconds over which the streams start (%(default)g)"
    )
    parser.add_argument(
        "--finalize-every", type=float, default=0.0, metavar="S", help="finalize every S seconds (off)"
    )
    parser.add_argument(
        "--fast", action="store_true", help="send as fast as the service takes it, not in real time"
    )
    parser.add_argument(
        "--find-max", action="store_true", help="find the most streams sustained, from --streams on"
    )
    parser.add_argument(
        "--limit-ms",
        type=float,
        default=500.0,
        help="latency up to which a stream counts as sustained (%(default)g)",
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    access.add_options(parser)
    args = parser.parse_args(argv)
    args.access = access.chosen(args, parser)
    for name in ("streams", "duration", "packet_ms"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} should be more than 0")
    if args.channels is not None and args.channels < 1:
        parser.error("--channels should be at least 1")
    if args.ws and args.channels:
        parser.error("--channels is of gRPC; over WebSocket, each stream has a connection of its own")
    if args.ws and not args.ws.startswith(("ws://", "wss://")):
        parser.error(f"--ws {args.ws!r} should start with ws:// or wss://, such as ws://localhost:8080")
    if args.json:
        try:  # now, rather than after a run that took its time
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.open("a").close()
        except OSError as error:
            parser.error(f"--json {args.json}: {error.strerror or error}")
    try:
        pcm = read_wav(args.wav, RATE) if args.wav else noise()
    except WavError as error:
        print(error, file=sys.stderr)
        return 2
    if not pcm:
        print(f"{args.wav}: no audio in it", file=sys.stderr)
        return 2
    try:
        return asyncio.run(run(args, pcm))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

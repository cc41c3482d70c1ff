"""Transcribes files, several at once and as fast as the service takes them: text, captions, words with times.

    python -m clients.transcribe talk.wav call.flac              talk.txt and call.txt, beside them
    python -m clients.transcribe --srt --json --out texts *.mp3  texts/NAME.srt and texts/NAME.json
    python -m clients.transcribe --channels separate call.wav    call.1.txt and call.2.txt

Run it again after it was stopped: what is there and newer than its recording is left as it is. Exit codes: 0 all is
there, 1 some files failed (listed at the end) or nobody answered, 2 an argument cannot be used, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from rich.console import Console

from clients import access, recognition_options
from clients.grpc_client_wav import build_config
from clients.transcribe.batch import Batch, Plan
from clients.transcribe.outputs import FORMATS, Job
from clients.transcribe.progress import Shown
from clients.transcribe.upload import Refused, refused

CONNECT_S = 5.0
ANSWER_S = 30.0
UTTERANCE_PAUSE_MS = 800
MOST_AT_ONCE = 32
CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    # A service that is gone without a word is noticed, however long it takes nothing.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


async def run(args: argparse.Namespace, jobs: Sequence[Job]) -> int:
    """Transcribes what the command line names; returns the exit code."""
    console = Console(stderr=True)

    def open_channel() -> grpc.aio.Channel:
        return args.access.channel(args.target, CHANNEL_OPTIONS)  # type: ignore[no-any-return]

    try:
        info = await _ask(open_channel(), args)
    except Refused as error:
        print(f"{args.target}: {error}", file=sys.stderr)
        return 1
    separate = args.channels == "separate"
    config = build_config(args)
    config.interim_results = False
    plan = Plan(open_channel, args.access.metadata(), config, separate, args.patience)
    with Shown(console, len(jobs)) as shown:
        batch = Batch(plan, jobs, shown)
        await batch.run(args.jobs or _at_once(info, separate))
    if batch.skipped:
        shown.line(f"{batch.skipped} of {len(jobs)} done already (--force writes them anew)")
    if batch.failures:
        shown.line(f"{len(batch.failures)} of {len(jobs)} failed:")
        for line in batch.failures:
            shown.line(f"  {line}")
    return 1 if batch.failures else 0


async def _ask(channel: grpc.aio.Channel, args: argparse.Namespace) -> pb.GetServiceInfoResponse:
    """Asks the service what it has room for, waiting while it starts; Refused if it does not answer."""
    async with channel:
        try:
            async with asyncio.timeout(CONNECT_S):
                await channel.channel_ready()
        except TimeoutError:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "no gRPC server answers there") from None
        stub = asr_pb2_grpc.SpeechServiceStub(channel)
        until = asyncio.get_running_loop().time() + args.patience
        while True:
            try:
                return await stub.GetServiceInfo(
                    pb.GetServiceInfoRequest(), metadata=args.access.metadata(), timeout=ANSWER_S
                )
            except grpc.aio.AioRpcError as error:
                why = refused(error)
                if why.retry_after_s is None or asyncio.get_running_loop().time() > until:
                    raise why from None
                await asyncio.sleep(max(why.retry_after_s, 0.1))


def _at_once(info: pb.GetServiceInfoResponse, separate: bool) -> int:
    """Takes half of the streams that are free: the rest is for those who speak."""
    free = max(0, info.max_streams - info.active_streams)
    return max(1, min(MOST_AT_ONCE, free // (4 if separate else 2)))


def plan_jobs(args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Job]:
    """Lists what is to be done, each file once; ends the program if two files would have the same transcripts."""
    formats = tuple(name for name in FORMATS if getattr(args, name)) or ("text",)
    jobs: dict[Path, Job] = {}
    stems: dict[Path, Path] = {}
    for source in args.files:
        job = Job(source, args.out or source.parent, formats, args.force)
        jobs.setdefault(source.absolute(), job)
        other = stems.setdefault(job.stem.absolute(), source)
        if other.absolute() != source.absolute():
            parser.error(f"{other} and {source} would both be written to {job.path(formats[0])}")
    return list(jobs.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m clients.transcribe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="recording that libsndfile reads (WAV, FLAC, OGG, Opus, MP3, AIFF, ...), of any rate and length; with "
        "PyAV installed also what FFmpeg reads (M4A, MP4, WebM, ...)",
    )
    written = parser.add_argument_group("what is written", "Each one that is named; text if none is.")
    written.add_argument("--text", action="store_true", help="NAME.txt: a line for each utterance")
    written.add_argument("--srt", action="store_true", help="NAME.srt: captions of two lines, SubRip")
    written.add_argument("--vtt", action="store_true", help="NAME.vtt: the same captions, WebVTT")
    written.add_argument(
        "--json", action="store_true", help="NAME.json: finals, and words with times and confidence"
    )
    written.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to; made if missing (beside each recording)"
    )
    written.add_argument(
        "--force", action="store_true", help="write anew what is there already, even if it is no older"
    )
    parser.add_argument("--target", default="localhost:50051", help="HOST:PORT of the service (%(default)s)")
    parser.add_argument(
        "--channels",
        choices=("mixed", "separate"),
        default="mixed",
        help="of a recording that has two: one transcript of their average, or one of each, NAME.1 and NAME.2, for "
        "which it takes two of the service's streams (%(default)s)",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="files at once (half of the streams that the service has free)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=600.0,
        metavar="S",
        help="how long to wait for a service that is full or away while no file goes on (%(default)g)",
    )
    recognition_options.add_recognition(parser, endpoint_ms=UTTERANCE_PAUSE_MS)
    access.add_options(parser)
    args = parser.parse_args(argv)
    args.access = access.chosen(args, parser)
    args.words, args.sid = True, ""
    if args.jobs is not None and args.jobs < 1:
        parser.error("--jobs should be 1 or more")
    if not args.patience >= 0:
        parser.error("--patience should be 0 or more")
    jobs = plan_jobs(args, parser)
    if args.out is not None:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--out {args.out}: {error.strerror or error}")
    try:
        return asyncio.run(run(args, jobs))
    except KeyboardInterrupt:
        print("stopped; what is done stays, and run again it goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

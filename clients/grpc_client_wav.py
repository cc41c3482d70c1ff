"""Streams an audio file to the service over gRPC and shows the words as they come.

    python clients/grpc_client_wav.py hello.wav --target localhost:50051

Exit codes: 0 the stream ended well, 1 the service refused or failed it, 2 the file or an argument cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

if not __package__:  # run as a script: the project is where its packages are
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients import access, recognition_options
from clients.display import LiveText, in_brackets
from clients.pacing import Pacer, completing_packet, duration_s, packets
from clients.wav import WavError, read_wav

RATE = 16_000
CONNECT_S = 5.0


class WavStream:
    """Sends one stream of a file's audio and notes when each packet was sent, so that results can be timed.

    The latency of a result is measured from the moment its audio was complete on our side: when the packet was sent
    that holds the last sample the result takes into account.
    """

    def __init__(self, pcm: bytes, config: pb.RecognitionConfig, *, packet_ms: float, realtime: bool) -> None:
        """`pcm` is 16-bit mono at `config.sample_rate_hertz`."""
        self._config = config
        self._rate = config.sample_rate_hertz
        self._pcm = pcm
        self._packet_ms = packet_ms
        self._realtime = realtime
        self._sent_at: list[float] = []
        self.closed_at = 0.0
        self.admitted = asyncio.Event()

    async def requests(self) -> AsyncIterator[pb.RecognizeRequest]:
        """Yields the config, and once the stream is admitted, the audio at the pace asked for.

        Waiting also keeps the reason of a refusal: grpc.aio reports a call that ends while it writes as INTERNAL.
        """
        yield pb.RecognizeRequest(config=self._config)
        await self.admitted.wait()
        pacer = Pacer()
        for packet in packets(self._pcm, self._rate, self._packet_ms):
            if self._realtime:
                await pacer.wait(duration_s(packet, self._rate))
            self._sent_at.append(time.monotonic())
            yield pb.RecognizeRequest(audio=packet)
        self.closed_at = time.monotonic()

    def latency_ms(self, response: pb.RecognizeResponse) -> float:
        """Tells how long ago the audio was complete that a response takes into account which came just now.

        For finals at the end of the stream that is the half-close.
        """
        if response.result.final_reason == pb.FINAL_REASON_END_OF_STREAM:
            since = self.closed_at
        else:
            index = completing_packet(response.audio_processed_ms, self._packet_ms)
            since = self._sent_at[min(max(index, 0), len(self._sent_at) - 1)]
        return 1000 * (time.monotonic() - since)


async def recognize(
    stub: asr_pb2_grpc.SpeechServiceAsyncStub,
    stream: WavStream,
    on_response: Callable[[pb.RecognizeResponse, float], None],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Runs a stream to its end; each response goes to `on_response` with its latency in ms. Returns the finals' text.

    Raises:
        grpc.aio.AioRpcError: the service refused or failed the stream.
    """
    finals: list[str] = []
    call = stub.Recognize(stream.requests(), metadata=tuple(metadata.items()))
    await call.initial_metadata()
    stream.admitted.set()
    async for response in call:
        on_response(response, stream.latency_ms(response))
        if response.result.is_final and response.result.text:
            finals.append(response.result.text)
    return " ".join(finals)


def build_config(args: argparse.Namespace) -> pb.RecognitionConfig:
    """Makes the config message of the command line."""
    config = pb.RecognitionConfig(
        encoding=pb.AUDIO_ENCODING_LINEAR16,
        sample_rate_hertz=RATE,
        interim_results=True,
        word_times=args.words,
        stream_id=args.sid,
        language_code=args.language,
        model=args.model,
        look_ahead_ms=args.look_ahead,
    )
    if args.endpoint_ms is not None:
        config.endpointing.trailing_silence_ms = args.endpoint_ms
    if args.phrase or args.boost is not None:
        config.phrase_boosts.add(phrases=args.phrase, boost=args.boost)
    return config


async def run(args: argparse.Namespace, pcm: bytes) -> int:
    """Streams the audio and shows what comes back; returns the exit code."""
    screen = LiveText()
    interims: list[float] = []
    finals: list[float] = []

    def show(response: pb.RecognizeResponse, latency_ms: float) -> None:
        result = response.result
        if not result.is_final:
            interims.append(latency_ms)
            screen.interim(result.text)
            return
        finals.append(latency_ms)
        reason = pb.FinalReason.Name(result.final_reason).removeprefix("FINAL_REASON_").lower()
        screen.final(result.text, in_brackets(reason, result.language_code))
        for word in result.words:
            print(
                f"    {word.start_ms / 1000:8.2f} {word.end_ms / 1000:8.2f}  {word.confidence:.2f}  {word.word}"
            )

    stream = WavStream(pcm, build_config(args), packet_ms=args.packet_ms, realtime=args.realtime)
    async with args.access.channel(args.target) as channel:
        try:
            async with asyncio.timeout(CONNECT_S):
                await channel.channel_ready()
        except TimeoutError:
            print(f"{args.target}: no gRPC server answers there", file=sys.stderr)
            return 1
        try:
            stub = asr_pb2_grpc.SpeechServiceStub(channel)
            await recognize(stub, stream, show, args.access.headers())
        except grpc.aio.AioRpcError as error:
            screen.close()
            print(f"{args.target}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    if args.realtime and interims and finals:
        print(
            f"{duration_s(pcm, RATE):.1f} s of audio; interims {median(interims):.0f} ms (median) after their audio, "
            f"last final {finals[-1]:.0f} ms after the end",
            file=sys.stderr,
        )
    return 0


def median(values: Sequence[float]) -> float:
    """Finds the upper median of at least one value."""
    return sorted(values)[len(values) // 2]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="grpc_client_wav", description="Streams an audio file over gRPC and shows the words."
    )
    parser.add_argument("wav", help="audio file: WAV, FLAC, OGG; any rate, any number of channels")
    parser.add_argument("--target", default="localhost:50051", help="HOST:PORT of the service (%(default)s)")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--realtime", action="store_true", default=True, help="at the pace of a live speaker (default)"
    )
    pace.add_argument("--fast", dest="realtime", action="store_false", help="as fast as the service takes it")
    parser.add_argument(
        "--packet-ms",
        "--chunk-ms",
        dest="packet_ms",
        type=float,
        default=20.0,
        help="length of a packet (%(default)g)",
    )
    parser.add_argument("--words", action="store_true", help="show words with times and confidence")
    recognition_options.add_recognition(parser)
    parser.add_argument("--sid", default="", help="name of the stream (made by the server)")
    access.add_options(parser)
    args = parser.parse_args(argv)
    args.access = access.chosen(args, parser)
    if not args.packet_ms > 0:
        parser.error("--packet-ms should be more than 0")
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

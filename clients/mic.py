"""Streams live audio to the service, over gRPC or WebSocket, and shows the words as they come.

Ctrl-C ends the audio, and the last words follow; a second one ends the program at once.

    python -m clients.mic                                   the default microphone, over gRPC
    python -m clients.mic --to ws://localhost:8080          through the bridge
    arecord -t raw -f S16_LE -r 16000 -c 1 | python -m clients.mic -         raw audio from another program
    sox -d -t raw -e signed -b 16 -r 16000 -c 1 - | python -m clients.mic -

The microphone needs the package `sounddevice` (pip install sounddevice) and PortAudio; `-` needs neither.
Exit codes: 0 the stream ended well, 1 the service refused or failed it, 2 there is no audio to send.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import grpc.aio
import websockets
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

if not __package__:  # run as a script: the project is where its packages are
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients import access, recognition_options
from clients.display import LiveText, in_brackets
from clients.handshake import CONNECT_S, NoConnection, connect
from clients.pacing import packet_bytes, packet_samples

PACKET_MS = 20
WAITING = 500
"""Packets that may wait for a service that is slow to take them: ten seconds. Then we stop rather than lose any."""
LAST_WORDS_S = 15.0
"""After Ctrl-C: for what waits to be sent, and for its words."""


class NoAudio(Exception):
    """There is nothing to send; the message is one line."""


class Refused(Exception):
    """The service cannot be reached, or ended the stream; the message is one line."""


class Source:
    """Hands packets of 16-bit mono audio from the thread that records them to the event loop, until they end.

    Attributes:
        failed: raises why there is no more audio. Not in the queue: nobody may be taking from it any more.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(WAITING)
        self._ended = False
        self.failed: asyncio.Future[None] = self._loop.create_future()

    def put(self, packet: bytes, *, wait: bool) -> None:
        """Adds a packet, from any thread. When there is no room: waits for it, or ends with an error."""
        if self._ended:
            pass  # a microphone goes on until it is closed
        elif self._room.acquire(blocking=wait):
            self._tell(self._queue.put_nowait, packet)
        else:
            self._tell(self._fail)

    def end(self) -> None:
        """Ends the audio; from any thread."""
        self._ended = True
        self._tell(self._queue.put_nowait, None)

    def _tell(self, what: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so is everybody who listened
            self._loop.call_soon_threadsafe(what, *args)

    def _fail(self) -> None:
        if not self.failed.done():
            waited_s = WAITING * PACKET_MS / 1000
            self.failed.set_exception(
                NoAudio(f"{waited_s:g} s of audio wait to be taken: the service is too slow")
            )

    async def packets(self) -> AsyncIterator[bytes]:
        """Yields every packet in order."""
        while (item := await self._queue.get()) is not None:
            self._room.release()
            yield item


def record(source: Source, rate: int, device: str | None) -> Callable[[], object]:
    """Starts the microphone; returns a function that stops it.

    Raises:
        NoAudio: no package, no PortAudio, or no such device.
    """
    try:
        import sounddevice
    except ImportError:
        raise NoAudio(
            "the microphone needs the package sounddevice: pip install sounddevice; or pipe raw audio in with '-'"
        ) from None
    except OSError as error:
        raise NoAudio(f"no PortAudio ({error}): install it, or pipe raw audio in with '-'") from None
    try:
        stream = sounddevice.RawInputStream(
            samplerate=rate,
            channels=1,
            dtype="int16",
            blocksize=packet_samples(rate, PACKET_MS),
            device=int(device) if device is not None and device.isdigit() else device,
            callback=lambda data, _frames, _time, _status: source.put(bytes(data), wait=False),
        )
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise NoAudio(f"cannot record: {error}") from None
    return stream.close  # type: ignore[no-any-return]


def read_stdin(source: Source, rate: int) -> None:
    """Reads raw audio from standard input, at the pace it comes, to its end; for a thread."""
    while data := os.read(sys.stdin.fileno(), packet_bytes(rate, PACKET_MS)):
        source.put(data, wait=True)
    source.end()


async def over_grpc(target: str, source: Source, args: argparse.Namespace, screen: LiveText) -> None:
    """Runs the stream over gRPC; may be cancelled at any time.

    Raises:
        Refused: the service failed.
    """
    config = pb.RecognitionConfig(
        sample_rate_hertz=args.rate,
        stream_id=args.sid,
        language_code=args.language,
        model=args.model,
        look_ahead_ms=args.look_ahead,
    )
    if args.endpoint_ms:
        config.endpointing.trailing_silence_ms = args.endpoint_ms
    async with args.access.channel(target) as channel:
        try:
            async with asyncio.timeout(CONNECT_S):
                await channel.channel_ready()
        except TimeoutError:
            raise Refused("no gRPC server answers there") from None
        call = asr_pb2_grpc.SpeechServiceStub(channel).Recognize(metadata=args.access.metadata())

        async def show() -> None:
            async for response in call:
                result = response.result
                if result.is_final:
                    screen.final(result.text, in_brackets(result.language_code))
                else:
                    screen.interim(result.text)

        showing = asyncio.create_task(show())
        showing.add_done_callback(lambda _: source.end())
        try:
            await call.write(pb.RecognizeRequest(config=config))
            # Admitted, or refused: a call that ends while it writes loses its reason.
            await call.initial_metadata()
            async for packet in source.packets():
                await call.write(pb.RecognizeRequest(audio=packet))
            await call.done_writing()
            await showing
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise Refused(f"{(await call.code()).name}: {await call.details()}") from None
        finally:
            call.cancel()
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)


async def over_websocket(url: str, source: Source, args: argparse.Namespace, screen: LiveText) -> None:
    """Runs the stream through the bridge; raises as `over_grpc` does."""
    error = ""

    async def show() -> None:
        nonlocal error
        async for raw in socket:
            message = json.loads(raw)
            if message["op"] == "error":
                error = f"{message['code']}: {message['message']}"
            elif message["final"]:
                screen.final(message["text"], in_brackets(message.get("language", "")))
            else:
                screen.interim(message["text"])

    try:
        async with await connect(url, args.access.websocket_tls(url), args.access.headers()) as socket:
            showing = asyncio.create_task(show())
            showing.add_done_callback(lambda _: source.end())
            try:
                init = {"op": "init", "sid": args.sid or "mic", "sr": args.rate}
                asked = {"endpoint_ms": args.endpoint_ms or None, **recognition_options.route_fields(args)}
                init |= {name: value for name, value in asked.items() if value is not None}
                await socket.send(json.dumps(init))
                async for packet in source.packets():
                    await socket.send(packet)
                await socket.send(json.dumps({"op": "close", "sid": init["sid"]}))
                await showing
            except asyncio.CancelledError:
                socket.transport.abort()  # no farewell to one that takes nothing
                raise
            finally:
                await asyncio.gather(showing, return_exceptions=True)
    except websockets.ConnectionClosed as closed:
        raise Refused(
            error or (f"closed with {closed.rcvd.code}" if closed.rcvd else "connection lost")
        ) from None
    except NoConnection as failed:
        raise Refused(str(failed)) from None


def on_interrupt(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Has an event loop make a call at Ctrl-C, in place of what it did then before."""
    try:
        loop.add_signal_handler(signal.SIGINT, call)
    # Event loops of Windows take no signal handlers.
    except NotImplementedError:
        signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(call))


async def run(args: argparse.Namespace) -> int:
    """Streams until the audio ends or Ctrl-C; returns the exit code."""
    source, screen = Source(), LiveText()
    recording = contextlib.ExitStack()
    over = over_websocket if args.to.startswith(("ws://", "wss://")) else over_grpc
    streaming = asyncio.create_task(over(args.to, source, args, screen))
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        source.end()
        on_interrupt(loop, streaming.cancel)
        loop.call_later(LAST_WORDS_S, streaming.cancel)

    on_interrupt(loop, interrupted)
    try:
        if args.source == "-":
            threading.Thread(target=read_stdin, args=(source, args.rate), daemon=True).start()
        else:
            recording.callback(record(source, args.rate, args.source))
            print("recording; Ctrl-C ends", file=sys.stderr)
        await asyncio.wait({streaming, source.failed}, return_when=asyncio.FIRST_COMPLETED)
        if source.failed.done():
            await source.failed
        await asyncio.wait({streaming})
        if streaming.cancelled():
            raise Refused("stopped before the last words came")
        await streaming
    except (NoAudio, Refused) as error:
        screen.close()
        print(error if isinstance(error, NoAudio) else f"{args.to}: {error}", file=sys.stderr)
        return 2 if isinstance(error, NoAudio) else 1
    finally:
        recording.close()
        streaming.cancel()
        source.failed.cancel()
        await asyncio.gather(streaming, source.failed, return_exceptions=True)
        screen.close()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="mic", description="Streams live audio and shows the words.")
    parser.add_argument(
        "source", nargs="?", help="a microphone by name or number (the default one), or - for stdin"
    )
    parser.add_argument(
        "--to",
        default="localhost:50051",
        help="HOST:PORT of the service, or ws:// URL of the bridge (%(default)s)",
    )
    parser.add_argument("--rate", type=int, default=16_000, help="samples per second (%(default)d)")
    parser.add_argument(
        "--endpoint-ms", type=int, default=800, help="silence that ends an utterance (%(default)d; 0: off)"
    )
    recognition_options.add_route(parser)
    parser.add_argument("--sid", default="", help="name of the stream")
    access.add_options(parser)
    args = parser.parse_args(argv)
    args.access = access.chosen(args, parser)
    if args.rate <= 0:
        parser.error("--rate should be more than 0, such as 16000")
    return asyncio.run(run(args))


if __name__ == "__main__":
    sys.exit(main())

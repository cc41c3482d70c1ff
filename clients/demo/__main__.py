"""Shows the service at work: starts it and the bridge, speaks to both, prints words as they come, stops everything.

    make demo
    python -m clients.demo --model demo
    make demo ARGS=--stay           lets both run on until Ctrl-C, for a browser to speak into

The bundled clips are streamed at the pace of a live speaker, first over gRPC, then over WebSocket. Exit codes: 0 all
went well, 1 it did not (the end of the programs' logs is shown).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import grpc.aio
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clients.demo.clips import ASSETS, Clip, bundled_clips, noise_clips
from clients.demo.servers import ROOT, DemoError, DemoServer
from clients.demo.streams import Heard, over_grpc, over_websocket
from clients.demo.view import Rows, difference, tail

RANDOM_MODEL = ROOT / "build" / "demo-random.nemo"
FIRST_START_S = 600.0
"""Longest wait for the service: its first start compiles the encoder step, minutes on a busy machine."""
START_S = 30.0
OF_PEOPLE = (
    "The bundled model is small and learnt from synthesised voices: it mishears many people, and knows 1,700 words.\n"
    "docs/demo-model.md has its figures, docs/models.md the models for people, one setting away (ASR_MODEL)."
)


def choose_clips(console: Console) -> list[Clip]:
    """Reads the bundled speech; makes noise where there is none."""
    if clips := bundled_clips():
        return clips
    console.print("No bundled clips: streaming bursts of noise instead.", style="yellow")
    return noise_clips()


def choose_model(console: Console, given: str | None) -> str:
    """Names the model to serve: the given one, the bundled one, else a small one with random weights made here."""
    if given is not None:
        return given
    if (ASSETS / "demo.nemo").exists():
        return "demo"
    console.print(
        "There is no bundled model: serving a small one with random weights, whose words mean nothing.",
        style="yellow",
    )
    if not RANDOM_MODEL.exists():
        console.print("Making it (once, about half a minute) ...")
        RANDOM_MODEL.parent.mkdir(exist_ok=True)
        made = subprocess.run(
            [sys.executable, "-m", "testbed.random_file", "tiny", str(RANDOM_MODEL)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            raise DemoError("the model could not be made", made.stdout + made.stderr)
    return str(RANDOM_MODEL)


async def describe(target: str) -> pb.GetServiceInfoResponse:
    """Asks the service what it serves."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = asr_pb2_grpc.SpeechServiceStub(channel)
        return await stub.GetServiceInfo(pb.GetServiceInfoRequest(), timeout=START_S)


Speak = Callable[[Clip, Callable[[str], None]], Awaitable[Heard]]


async def speak_all(console: Console, title: str, clips: Sequence[Clip], speak: Speak) -> list[Heard]:
    """Streams all clips at the same time and shows their texts as they grow."""
    console.print(f"\n[bold]{title}[/bold]")
    with Rows(console, [clip.name for clip in clips]) as rows:

        async def one(index: int, clip: Clip) -> Heard:
            heard = await speak(clip, lambda text: rows.interim(index, text))
            rows.final(index, heard.text)
            return heard

        done = await asyncio.gather(*(one(i, clip) for i, clip in enumerate(clips)), return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [result for result in done if isinstance(result, Heard)]


def report(console: Console, clips: Sequence[Clip], heard: dict[str, list[Heard]]) -> None:
    """Prints the finals beside what was said, and how long everything took."""
    console.print("\n[bold]What was said, and what was heard[/bold]")
    for index, clip in enumerate(clips):
        if clip.text:
            speaker = "  [dim](a person)[/dim]" if clip.human else ""
            console.print(f"  {clip.name:<8} said       {escape(clip.text)}{speaker}", soft_wrap=True)
        for transport, results in heard.items():
            text = results[index].text
            judged = f"  [dim]({difference(clip.text, text)})[/dim]" if clip.text else ""
            shown = escape(tail(text)) or "(nothing)"
            console.print(f"  {clip.name:<8} {transport:<10} {shown}{judged}", soft_wrap=True)
    if any(clip.human for clip in clips):
        console.print(OF_PEOPLE, style="dim", soft_wrap=True)

    def row(
        name: str, values: Callable[[list[Heard]], list[float]], of: Callable[[list[float]], float]
    ) -> None:
        cells = [values(results) for results in heard.values()]
        table.add_row(name, *(f"{of(cell):.0f}" if cell else "-" for cell in cells))

    table = Table(title="Latency in ms, as the client sees it", title_justify="left", title_style="bold")
    table.add_column("")
    for transport in heard:
        table.add_column(transport, justify="right")
    row("first word, from the first packet", lambda r: [h.first_word_ms for h in r if h.first_word_ms], min)
    row(
        "interim, from the end of its chunk: median",
        lambda r: [ms for h in r for ms in h.interims_ms],
        statistics.median,
    )
    row("interim, from the end of its chunk: slowest", lambda r: [ms for h in r for ms in h.interims_ms], max)
    row("last final, from half-close: median", lambda r: [h.final_ms for h in r], statistics.median)
    console.print()
    console.print(table)


async def talk(console: Console, clips: Sequence[Clip], target: str, url: str, language: str) -> None:
    """Streams the clips over both transports and reports; needs both servers."""
    info = await describe(target)
    console.print(
        f"Serving [bold]{info.model}[/bold] on {info.device}: {info.decoder}, look-ahead {info.look_ahead_ms} ms, "
        f"an interim for each {info.chunk_ms} ms of audio",
        highlight=False,
    )
    heard = {
        "gRPC": await speak_all(
            console, f"gRPC, {target}", clips, lambda clip, show: over_grpc(target, clip, show, language)
        ),
        "WebSocket": await speak_all(
            console, f"WebSocket, {url}", clips, lambda clip, show: over_websocket(url, clip, show, language)
        ),
    }
    report(console, clips, heard)
    if info.model.startswith("demo") and not any(one.text for results in heard.values() for one in results):
        raise DemoError("the demo model heard no words at all")


def start_service(model: str, folder: Path) -> DemoServer:
    """Starts the service on a free port; its ready file is in `folder`."""
    ready = folder / "service.json"
    settings = {
        "ASR_HOST": "127.0.0.1",
        "ASR_GRPC_PORT": "0",
        "ASR_MODEL": model,
        "ASR_MAX_STREAMS": "16",
        # A busy machine makes the words of a demo late; a refusal would leave none.
        "ASR_MAX_LOAD": "0",
        "ASR_READY_FILE": str(ready),
    }
    return DemoServer("service", ["-m", "asr_service", "serve"], settings, ready)


def start_bridge(target: str, folder: Path) -> DemoServer:
    """Starts the bridge to the service at `target`, as `start_service` does."""
    ready = folder / "bridge.json"
    settings = {
        "ASR_HOST": "127.0.0.1",
        "ASR_PORT": "0",
        "ASR_GRPC_TARGET": target,
        "ASR_BRIDGE_READY_FILE": str(ready),
    }
    return DemoServer("bridge", ["-m", "ws_bridge"], settings, ready)


def stay(console: Console, bridge: DemoServer, page: str) -> None:
    """Leaves both servers running until Ctrl-C; DemoError if the bridge ends by itself."""
    try:
        console.print(f"\nBoth run on: speak into {page} in a browser. Ctrl-C stops them.", highlight=False)
        bridge.popen.wait()
    except KeyboardInterrupt:
        console.print("Stopping ...")
    else:
        raise DemoError("the bridge ended by itself", bridge.tail())


def run(console: Console, model: str | None, language: str, staying: bool = False) -> None:
    """Runs the whole demo; `staying`: goes on until Ctrl-C.

    Raises:
        DemoError: something did not go as it should.
    """
    started = time.monotonic()
    clips = choose_clips(console)
    model = choose_model(console, model)
    with tempfile.TemporaryDirectory(prefix="asr-demo-") as name:
        folder = Path(name)
        with start_service(model, folder) as service:
            target = f"127.0.0.1:{service.wait_ready(console, FIRST_START_S)['grpc_port']}"
            with start_bridge(target, folder) as bridge:
                port = bridge.wait_ready(console, START_S)["port"]
                url = f"ws://127.0.0.1:{port}"
                page = f"http://localhost:{port}/"
                console.print(f"A page to speak into, as long as the bridge runs: {page}", highlight=False)
                try:
                    asyncio.run(talk(console, clips, target, url, language))
                except DemoError as error:
                    raise DemoError(str(error), error.log or service.tail() + bridge.tail()) from error
                if staying:
                    stay(console, bridge, page)
                bridge.stop_well()
            service.stop_well()
    if not staying:
        console.print("To speak yourself: make demo ARGS=--stay, or make serve.", highlight=False)
    console.print(f"Both stopped cleanly; the demo took {time.monotonic() - started:.0f} s.", highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m clients.demo", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--model", help="what ASR_MODEL takes (the bundled model, else one with random weights)"
    )
    parser.add_argument(
        "--language", default="", help="language of the speech, such as en-US (the model's default)"
    )
    parser.add_argument(
        "--stay", action="store_true", help="run on until Ctrl-C, for a browser to speak into"
    )
    args = parser.parse_args(argv)
    console = Console(highlight=False)
    try:
        run(console, args.model, args.language, args.stay)
    except DemoError as error:
        if error.log:
            console.print(error.log, markup=False, soft_wrap=True)
        console.print(f"The demo failed: {error}", style="bold red")
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

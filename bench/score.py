"""Scores a running service on the evaluation set: word error rate by group, over gRPC or WebSocket.

    python -m bench.score --grpc localhost:50051
    python -m bench.score --ws ws://localhost:8080 --concurrency 16 --json score.json

Deletions at the end of an utterance are counted apart: they show a lost tail rather than a weak model. Over gRPC the
words' start times are compared with the synthesiser's as well. Exit codes: 0 scored, 1 a stream failed or the WER is
over `--max-wer`, 2 the set or an argument cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from bench.options import write_report
from clients.pacing import packets
from demo_model.wer import Errors, align, compare, total

EVAL = Path(__file__).resolve().parent.parent / "demo_model" / "eval"
PACKET_MS = 100
SHOWN = 5  # failures printed; the JSON has all


@dataclass(frozen=True)
class Utterance:
    """A line of the manifest with its audio: 16-bit little-endian mono at `rate` Hz."""

    id: str
    groups: tuple[str, ...]
    text: str
    words: tuple[dict[str, Any], ...]
    rate: int
    pcm: bytes

    def packets(self) -> Iterator[bytes]:
        return packets(self.pcm, self.rate, PACKET_MS)


@dataclass(frozen=True)
class Heard:
    """What the service made of an utterance; `words` are (text, start ms), empty over WebSocket."""

    text: str
    words: tuple[tuple[str, int], ...] = ()


Recognize = Callable[[Utterance], Awaitable[Heard]]


def read_set(folder: Path, limit: int = 0) -> list[Utterance]:
    """Reads the manifest and its FLAC files; `limit` takes evenly spread utterances only."""
    lines = [
        json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    if limit and limit < len(lines):
        lines = [lines[index * len(lines) // limit] for index in range(limit)]
    found = []
    for line in lines:
        samples, rate = soundfile.read(folder / line["file"], dtype="int16")
        groups = (line["group"], "all seen" if line["seen"] else "all unseen", "all")
        pcm = samples.astype("<i2").tobytes()
        found.append(Utterance(line["id"], groups, line["text"], tuple(line["words"]), rate, pcm))
    return found


def grpc_recognizer(target: str) -> tuple[Recognize, Callable[[], Awaitable[None]]]:
    """Speaks to the service itself; returns the recognizer and what closes it."""
    import grpc
    import grpc.aio
    from asr.v1 import asr_pb2 as pb
    from asr.v1 import asr_pb2_grpc

    channel = grpc.aio.insecure_channel(target)
    stub = asr_pb2_grpc.SpeechServiceStub(channel)

    async def requests(utterance: Utterance, answered: asyncio.Event) -> AsyncIterator[pb.RecognizeRequest]:
        config = pb.RecognitionConfig(
            encoding=pb.AUDIO_ENCODING_LINEAR16,
            sample_rate_hertz=utterance.rate,
            interim_results=False,
            word_times=True,
            stream_id=utterance.id,
        )
        yield pb.RecognizeRequest(config=config)
        await answered.wait()  # writing into a refused call would hide the reason of the refusal
        for packet in utterance.packets():
            yield pb.RecognizeRequest(audio=packet)

    async def recognize(utterance: Utterance) -> Heard:
        texts: list[str] = []
        words: list[tuple[str, int]] = []
        answered = asyncio.Event()
        call = stub.Recognize(requests(utterance, answered))
        try:
            await call.initial_metadata()
            answered.set()
            async for response in call:
                if response.result.is_final:
                    texts.append(response.result.text)
                    words += [(word.word, word.start_ms) for word in response.result.words]
        except grpc.aio.AioRpcError as error:
            later = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
            raise (ConnectionError if later else RuntimeError)(
                f"{error.code().name}: {error.details()}"
            ) from None
        finally:
            answered.set()
        return Heard(" ".join(text for text in texts if text), tuple(words))

    return recognize, channel.close


def ws_recognizer(url: str) -> tuple[Recognize, Callable[[], Awaitable[None]]]:
    """Speaks to the WebSocket bridge; returns the recognizer and what closes it."""
    from websockets.asyncio.client import connect

    async def recognize(utterance: Utterance) -> Heard:
        async with connect(url) as socket:
            await socket.send(json.dumps({"op": "init", "sid": utterance.id, "sr": utterance.rate}))
            for packet in utterance.packets():
                await socket.send(packet)
            await socket.send(json.dumps({"op": "close", "sid": utterance.id}))
            finals: list[str] = []
            async for message in socket:
                event = json.loads(message)
                if event["op"] == "error":
                    later = event.get("code") in ("unavailable", "resource_exhausted")
                    kind = ConnectionError if later else RuntimeError
                    raise kind(f"{event.get('code')}: {event.get('message')}")
                if event["op"] == "final":
                    finals.append(event["text"])
        return Heard(" ".join(text for text in finals if text))

    async def close() -> None:
        """Each utterance has closed its own connection."""

    return recognize, close


async def persist(recognize: Recognize, utterance: Utterance, seconds: float) -> Heard:
    """Tries until the service takes the stream: it may be starting, or busy, as files come faster than live audio."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            return await recognize(utterance)
        except OSError:
            if asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(1.0)


async def recognize_all(
    utterances: Sequence[Utterance], recognize: Recognize, concurrency: int, wait: float
) -> tuple[dict[str, Heard], dict[str, str]]:
    """Streams every utterance, `concurrency` at a time; returns what was heard and what failed, by id."""
    gate = asyncio.Semaphore(concurrency)
    heard: dict[str, Heard] = {}
    failed: dict[str, str] = {}

    async def one(utterance: Utterance) -> None:
        async with gate:
            try:
                heard[utterance.id] = await persist(recognize, utterance, wait)
            except Exception as error:  # every kind of failure belongs in the report
                failed[utterance.id] = f"{type(error).__name__}: {error}"

    await asyncio.gather(*(one(utterance) for utterance in utterances))
    return heard, failed


def start_errors(utterance: Utterance, heard: Heard) -> list[int]:
    """Returns how much later (ms) each rightly heard word starts than the synthesiser says."""
    reference = [word["text"] for word in utterance.words]
    errors = []
    i = j = 0
    for operation in align(reference, [word for word, _ in heard.words]):
        if operation == "=" and utterance.words[i]["start_ms"] is not None:
            errors.append(heard.words[j][1] - utterance.words[i]["start_ms"])
        i += operation in "=sd"
        j += operation in "=si"
    return errors


def report(
    utterances: Sequence[Utterance], heard: dict[str, Heard], failed: dict[str, str]
) -> dict[str, Any]:
    """Sums the errors up by group."""
    groups: dict[str, list[Errors]] = defaultdict(list)
    late: list[int] = []
    mistakes = []
    for utterance in utterances:
        if utterance.id not in heard:
            continue
        result = heard[utterance.id]
        errors = compare(utterance.text, result.text)
        for group in utterance.groups:
            groups[group].append(errors)
        late += start_errors(utterance, result)
        if not errors.exact:
            mistakes.append({"id": utterance.id, "reference": utterance.text, "heard": result.text})
    summary: dict[str, Any] = {"groups": {name: total(items).as_dict() for name, items in groups.items()}}
    if late:
        summary["word_start_ms"] = {"median": statistics.median(late), "words": len(late)}
    return {**summary, "failed": failed, "mistakes": mistakes}


def table(summary: dict[str, Any]) -> str:
    """Lays the report out as a Markdown table."""
    rows = [
        "| group | utterances | words | WER % | at the end lost | exact |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, counts in summary["groups"].items():
        rows.append(
            f"| {name} | {counts['utterances']} | {counts['words']} | {counts['wer']:.1f} "
            f"| {counts['tail_deletions']} | {counts['exact']} |"
        )
    if "word_start_ms" in summary:
        late = summary["word_start_ms"]
        rows.append(
            f"\nWords start {late['median']:.0f} ms after the synthesiser's time (median of {late['words']})."
        )
    failed = list(summary["failed"].items())
    rows += [f"failed: {name}: {why}" for name, why in failed[:SHOWN]]
    if len(failed) > SHOWN:
        rows.append(f"and {len(failed) - SHOWN} more failed")
    return "\n".join(rows)


async def run(args: argparse.Namespace) -> int:
    """Scores the service; returns the exit code."""
    try:
        utterances = read_set(args.eval_set, args.limit)
    except (OSError, ValueError, KeyError) as error:
        print(f"the evaluation set cannot be read: {error}", file=sys.stderr)
        return 2
    recognize, close = ws_recognizer(args.ws) if args.ws else grpc_recognizer(args.grpc)
    try:
        await persist(recognize, utterances[0], args.wait)
    except OSError as error:
        print(f"the service cannot be reached: {error}", file=sys.stderr)
        await close()
        return 1
    except RuntimeError:
        pass  # the report will say it of every utterance
    heard, failed = await recognize_all(utterances, recognize, args.concurrency, args.wait)
    await close()
    summary = report(utterances, heard, failed)
    print(table(summary))
    write_report(args.json, summary)
    over = args.max_wer is not None and heard and summary["groups"]["all"]["wer"] > args.max_wer
    return 1 if failed or over or not heard else 0


def parser() -> argparse.ArgumentParser:
    """Describes the arguments."""
    top = argparse.ArgumentParser(
        prog="python -m bench.score", description="Word error rate of a running service."
    )
    where = top.add_mutually_exclusive_group()
    where.add_argument(
        "--grpc", default="localhost:50051", metavar="HOST:PORT", help="the service (%(default)s)"
    )
    where.add_argument(
        "--ws", metavar="URL", help="the WebSocket bridge instead, such as ws://localhost:8080"
    )
    top.add_argument("--concurrency", type=int, default=4, help="streams at the same time (%(default)s)")
    top.add_argument("--wait", type=float, default=60, help="seconds to wait for a stream (%(default)s)")
    top.add_argument("--limit", type=int, default=0, help="only so many utterances, evenly spread (0: all)")
    top.add_argument("--max-wer", type=float, help="exit with 1 when the WER over all is higher (percent)")
    top.add_argument("--eval-set", type=Path, default=EVAL, help="folder with manifest.jsonl")
    top.add_argument("--json", type=Path, help="write the report here")
    return top


if __name__ == "__main__":
    sys.exit(asyncio.run(run(parser().parse_args())))

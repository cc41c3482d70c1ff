"""What the drivers share. They run in other people's environments: standard library only.

A driver reads `Order` as JSON from its standard input and writes a list of `Heard` to its standard output.
"""

from __future__ import annotations

import array
import json
import os
import sys
import time
import wave
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

RATE = 16_000
PACKET_MS = 20
LOUD = 1000  # of 32767: from here on a sample is speech


@dataclass
class Order:
    """What to recognize, and where: WAV files by name, mono, and the text that is awaited."""

    target: str
    files: dict[str, str]
    expected: dict[str, str]
    mode: str = ""
    rate: int = RATE


@dataclass
class Heard:
    """What came back for one file."""

    name: str
    finals: list[str] = field(default_factory=list)
    interims: list[str] = field(default_factory=list)
    words: list[tuple[str, int, int]] = field(default_factory=list)
    waited_s: float | None = None
    """From the end of the input, or of the speech, to the last final."""

    @property
    def text(self) -> str:
        """All finals."""
        return " ".join(self.finals)


def order() -> Order:
    """The order on standard input. From here on everything printed goes to standard error."""
    given = Order(**json.load(sys.stdin))
    global _answer
    _answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return given


def answer(heard: list[Heard], *packages: str) -> None:
    """Writes what was heard, with the versions of the packages that heard it, and ends at once."""
    versions = {package: version(package) for package in packages}
    json.dump({"versions": versions, "heard": [asdict(one) for one in heard]}, _answer)
    _answer.close()
    os._exit(0)  # frameworks leave threads behind


_answer = sys.stdout


def samples(path: str, rate: int = RATE) -> bytes:
    """A file's audio."""
    with wave.open(path, "rb") as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (rate, 1, 2)
        return file.readframes(file.getnframes())


def packets(pcm: bytes, rate: int = RATE) -> list[bytes]:
    """Audio in packets of 20 ms."""
    size = rate * PACKET_MS // 1000 * 2
    return [pcm[at : at + size] for at in range(0, len(pcm), size)]


def speech_end(pcm: bytes, rate: int = RATE) -> int:
    """Index of the packet with the last loud sample."""
    pieces = packets(pcm, rate)
    loud = [
        at for at, piece in enumerate(pieces) if max(map(abs, array.array("h", piece)), default=0) >= LOUD
    ]
    return loud[-1] if loud else len(pieces) - 1


def paced(pieces: list[bytes]) -> Iterator[bytes]:
    """The packets, each when a live speaker would have spoken it; blocks in between."""
    began = time.monotonic()
    for at, piece in enumerate(pieces, 1):
        time.sleep(max(0.0, began + at * PACKET_MS / 1000 - time.monotonic()))
        yield piece

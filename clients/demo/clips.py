"""Reads what the demo streams: the bundled clips with their texts, or else noise."""

from __future__ import annotations

import json
from dataclasses import dataclass

from clients.demo.servers import ROOT, DemoError
from clients.loadgen.plan import noise
from clients.wav import WavError, read_wav

ASSETS = ROOT / "asr_service" / "assets"
RATE = 16_000
CLIPS = 2
"""Synthesised clips; two of people are streamed beside them. More rows than that are not pleasant to watch."""
NOISE_S = 4.0


@dataclass(frozen=True)
class Clip:
    """Speech to stream, 16-bit mono PCM at `RATE`; what is said in it, "" if nobody knows; whether a person says it."""

    name: str
    pcm: bytes
    text: str
    human: bool = False


def bundled_clips() -> list[Clip]:
    """Reads the bundled speech; an empty list where it is left out.

    Raises:
        DemoError: a clip cannot be read.
    """
    return [*_listed("clips.jsonl", CLIPS, human=False), *_listed("people.jsonl", None, human=True)]


def _listed(name: str, most: int | None, *, human: bool) -> list[Clip]:
    listing = ASSETS / "clips" / name
    if not listing.exists():
        return []
    entries = [json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines()[:most]]
    files = [listing.parent / entry["file"] for entry in entries]
    try:
        return [
            Clip(file.stem, read_wav(file, RATE), entry["text"], human)
            for file, entry in zip(files, entries, strict=True)
        ]
    except WavError as error:
        raise DemoError(str(error)) from None


def noise_clips() -> list[Clip]:
    """Makes bursts of noise, for models that know no words anyway."""
    return [Clip(f"noise{seed}", noise(NOISE_S, seed), "") for seed in (1, 2)]

"""Carries the evaluation set through a model's streaming step in this process, for the benchmarks of words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import soxr

from asr_service.core.model import StreamingModel
from asr_service.core.values import Samples
from bench.score import EVAL, Utterance, read_set
from testbed.by_request import StepRequest, step

TOGETHER = 128
RATE = 16_000


@dataclass
class Emitted:
    """A recording's tokens, the frames that they came at, and their confidence."""

    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    probs: list[float] = field(default_factory=list)


def utterances(limit: int = 0) -> list[Utterance]:
    """Reads the set as it is stored; `limit` as in `bench.score.read_set`. Ends the program where there is no set."""
    try:
        return read_set(EVAL, limit)
    except OSError as error:
        sys.exit(f"the evaluation set, which is part of the repository, cannot be read: {error}")


def evaluation_set(limit: int = 0) -> list[tuple[Utterance, Samples]]:
    """Reads utterances with their audio at 16 kHz; `limit` and a missing set as in `utterances`."""
    found = []
    for utterance in utterances(limit):
        samples = np.frombuffer(utterance.pcm, dtype="<i2").astype(np.float32) / 32768
        found.append((utterance, np.asarray(soxr.resample(samples, utterance.rate, RATE), dtype=np.float32)))
    return found


def step_all(model: StreamingModel, audios: Sequence[Samples]) -> list[Emitted]:
    """Steps whole recordings, one a slot, the longest first, and flushes each with its true length; what each says."""
    info = model.info
    found = [Emitted() for _ in audios]
    waiting = sorted(range(len(audios)), key=lambda number: len(audios[number]))
    live: dict[int, int] = {}
    places: dict[int, int] = {}
    while waiting or live:
        for slot in range(model.slots):
            if waiting and slot not in live:
                live[slot] = waiting.pop()
        requests = []
        for slot, number in live.items():
            first = number not in places
            place = places.get(number, 0)
            need = info.first_chunk_samples if first else info.chunk_samples
            samples = audios[number][place : place + need]
            places[number] = place + len(samples)
            requests.append(StepRequest(slot, samples, first, len(samples) < need))
        for request, result in zip(requests, step(model, requests), strict=True):
            emitted = found[live[request.slot]]
            emitted.tokens += result.tokens
            emitted.frames += result.token_frames
            emitted.probs += result.token_probs
            if request.is_last:
                del live[request.slot]
    return found


def text_of(pieces: Sequence[str], tokens: Sequence[int]) -> str:
    """Makes text of tokens, with single spaces between words."""
    return " ".join("".join(pieces[token] for token in tokens).replace("\u2581", " ").split())

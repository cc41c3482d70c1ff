"""Tokens that the bundled model must give on any device: made on a CPU, in fp32, and committed with their audio.

`tests/model/test_golden.py` holds them to NeMo's own; `tests/gpu` and `bench.gpu` hold a GPU to them. They take neither
NeMo nor anything that reads audio files: the audio is mu-law, one byte a sample, as telephones send it.

    python -m testbed.golden FOLDER_OF_THE_EVALUATION_SET
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr_service.core.model import StreamingModel
from asr_service.core.values import Encoding, PhraseBoost, Samples
from asr_service.recognition.audio import AudioReader
from testbed.by_request import StepRequest, step

MODEL = "demo"
RATE = 16_000
_FOLDER = Path(__file__).parent
AUDIO, TOKENS = _FOLDER / "audio.npz", _FOLDER / "tokens.json"


@dataclass(frozen=True)
class Golden:
    """What the bundled model says in one setting.

    Attributes:
        look_ahead: attention context.
        decoder: "rnnt" or "ctc".
        boosted: phrases that are boosted in every stream, none if it is empty.
        tokens: of each recording of `recordings`.
    """

    look_ahead: tuple[int, int]
    decoder: str
    boosted: tuple[str, ...]
    tokens: list[list[int]]

    @property
    def boosts(self) -> tuple[PhraseBoost, ...]:
        """The phrases as a stream's request names them."""
        return (PhraseBoost(self.boosted, 15.0),) if self.boosted else ()


@dataclass(eq=False)
class Stepped:
    """A stream that is stepped by hand: its audio, what it boosts, its slot and its tokens so far."""

    audio: Samples
    boosts: tuple[PhraseBoost, ...] = ()
    slot: int = -1
    place: int = 0
    begun: bool = False
    done: bool = False
    tokens: list[int] = field(default_factory=list)

    def request(self, model: StreamingModel) -> StepRequest:
        """Returns the next chunk, or the flush if less than one is left."""
        info, is_first = model.info, not self.begun
        need = info.first_chunk_samples if is_first else info.chunk_samples
        samples = self.audio[self.place : self.place + need]
        self.place += len(samples)
        self.begun, self.done = True, len(samples) < need
        return StepRequest(self.slot, samples, is_first, self.done, self.boosts if is_first else ())


def recordings() -> list[Samples]:
    """Reads the recordings, float32 at 16 kHz; the last ones are pieces of them, down to none."""
    with np.load(AUDIO) as stored:
        whole = [
            AudioReader(Encoding.MULAW, RATE, RATE).read(stored[name].tobytes()) for name in stored.files
        ]
    pieces = [whole[0][:n] for n in (0, 159, 1_999, 8_000, 24_000 + 37)]
    return [np.ascontiguousarray(one, dtype=np.float32) for one in (*whole, *pieces)]


def golden() -> list[Golden]:
    """Reads what is right."""
    return [
        Golden(tuple(one["look_ahead"]), one["decoder"], tuple(one["boosted"]), one["tokens"])
        for one in json.loads(TOKENS.read_text())
    ]


def step_streams(
    model: StreamingModel, streams: Sequence[Stepped], *, together: int, seed: int = 0
) -> list[list[int]]:
    """Steps whole streams in batches of random sizes and slots, at most `together` at a time; returns their tokens."""
    rng = random.Random(seed)
    waiting, free = list(streams), list(range(model.slots))
    live: list[Stepped] = []
    rng.shuffle(free)
    while waiting or live:
        while waiting and len(live) < together and (not live or rng.random() < 0.5):
            stream = waiting.pop(0)
            stream.slot = free.pop(0)
            live.append(stream)
        batch = rng.sample(live, rng.randint(1, len(live)))
        for stream, result in zip(batch, step(model, [one.request(model) for one in batch]), strict=True):
            if result.broken:
                raise RuntimeError("a step gave numbers that are not finite")
            stream.tokens += result.tokens
            if stream.done:
                live.remove(stream)
                free.append(stream.slot)
    return [stream.tokens for stream in streams]

"""Steps a model by hand: streams that start, end and share batches at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr_service.core.model import StreamingModel
from asr_service.model.decoders.emissions import Emissions
from asr_service.model.streaming import NemoStreamingModel
from testbed.by_request import StepRequest, step


@dataclass(eq=False)
class Fed:
    """One stream as it is fed: its audio, its language prompt, its slot, what it got so far."""

    audio: npt.NDArray[np.float32]
    prompt: int = -1
    slot: int = -1
    position: int = 0
    steps: int = 0
    done: bool = False
    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    decoded: int = 0

    def request(self, model: StreamingModel) -> StepRequest:
        """The next chunk, the flush if less than one is left."""
        info = model.info
        need = info.chunk_samples if self.steps else info.first_chunk_samples
        samples = self.audio[self.position : self.position + need]
        self.position += len(samples)
        self.done = len(samples) < need
        request = StepRequest(self.slot, samples, self.steps == 0, self.done, prompt=self.prompt)
        self.steps += 1
        return request


def run(
    model: StreamingModel,
    audios: Sequence[npt.NDArray[np.float32]],
    seed: int,
    *,
    together: int,
    prompts: Sequence[int] = (),
) -> list[Fed]:
    """Feeds all streams, at most `together` at a time, in random batches and random slots that are used again.

    `prompts` has the index of each stream's language prompt, for a model that takes any.
    """
    rng = random.Random(seed)
    streams = [
        Fed(audio, prompt) for audio, prompt in zip(audios, prompts or [-1] * len(audios), strict=True)
    ]
    waiting = list(streams)
    live: list[Fed] = []
    free = list(range(model.slots))
    rng.shuffle(free)
    while waiting or live:
        while waiting and len(live) < together and (not live or rng.random() < 0.4):
            stream = waiting.pop(0)
            stream.slot = free.pop(0)
            live.append(stream)
        batch = rng.sample(live, rng.randint(1, len(live)))
        for stream, result in zip(batch, step(model, [s.request(model) for s in batch]), strict=True):
            stream.tokens += result.tokens
            stream.frames += result.token_frames
            stream.probabilities += result.token_probs
            stream.decoded += result.frames
            if stream.done:
                live.remove(stream)
                free.append(stream.slot)
    return streams


def frames_by_slot(model: NemoStreamingModel) -> dict[int, list[Tensor]]:
    """Watches a model's steps from now on: the frames that its decoder is given, by slot."""
    given: dict[int, list[Tensor]] = {slot: [] for slot in range(model.slots)}
    inner = model._decoder.step

    def watch(slots: Tensor, encoded: Tensor, frames: Tensor) -> Emissions:
        for row, count in enumerate(frames.tolist()):
            given[int(slots[row])].append(encoded[row, :count].clone())
        return inner(slots, encoded, frames)

    model._decoder.step = watch  # type: ignore[method-assign]
    return given


def joined(frames: Sequence[Tensor], width: int) -> Tensor:
    """All frames of a stream, [frames, width]; there may be none."""
    return torch.cat([torch.zeros(0, width), *frames])

"""Makes the steps that `bench.engine` times: NeMo's own, this project's encoder, its prompts, and a whole step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from asr_service.model.batch import Batch
from asr_service.model.streaming import NemoStreamingModel
from testbed.by_request import StepRequest
from testbed.by_request import step as step_model
from testbed.models import babble

Step = Callable[[], object]


def nemo_step(encoder: Any, batch: int, mel: torch.Tensor) -> Callable[[], object]:
    """Makes NeMo's step in the steady state, as a function to be timed."""
    channel, last_time, length = encoder.get_initial_cache_state(batch_size=batch, device=mel.device)
    config = encoder.streaming_cfg
    past = config.pre_encode_cache_size
    signal = (
        torch.cat([mel[:, : past[1] if isinstance(past, list) else past], mel], dim=1)
        .transpose(1, 2)
        .contiguous()
    )
    caches = [channel.normal_(), last_time.normal_(), length.fill_(config.last_channel_cache_size)]
    frames = torch.full((batch,), signal.shape[2], device=mel.device)

    def step() -> object:
        with torch.inference_mode():
            out = encoder.cache_aware_stream_step(
                processed_signal=signal, processed_signal_length=frames, cache_last_channel=caches[0],
                cache_last_time=caches[1], cache_last_channel_len=caches[2], keep_all_outputs=False,
            )  # fmt: skip
        caches[:] = out[2:5]
        return out

    return step


def own_step(model: NemoStreamingModel, batch: int, mel: torch.Tensor) -> Callable[[], object]:
    """Makes this project's step in the steady state, with streams of mixed ages."""
    slots = torch.arange(batch, device=mel.device)
    steps = slots * 7 + 2 * model._encoder.ring_chunks
    frames = torch.full_like(slots, model.info.chunk_frames)

    def step() -> object:
        steps.add_(1)
        with torch.inference_mode():
            return model._encoder.step(Batch(slots, steps, None, frames, False), mel)

    return step


def prompt_step(model: NemoStreamingModel, batch: int) -> Step | None:
    """Makes the part of a step that conditions its frames on languages; None for a model that takes no prompts."""
    prompts = model._prompts
    if prompts is None:
        return None
    device = torch.device(model.info.device)
    spoken = torch.arange(batch, device=device) % prompts.prompts
    frames = torch.randn(batch, model.info.chunk_frames, prompts.d_model, device=device)

    def step() -> object:
        with torch.inference_mode():
            return prompts.step(spoken, frames)

    return step


def whole_step(model: NemoStreamingModel, batch: int) -> Callable[[], object]:
    """Makes a step of features, encoder and decoding of `batch` streams, each at another place of the same babble."""
    info = model.info
    audio = np.concatenate([babble(20.0, 1)] * 2)
    position = [0]
    prompts = [index for _, index in info.prompts] or [-1]

    def step() -> object:
        first = position[0] == 0
        need = info.first_chunk_samples if first else info.chunk_samples
        begin = position[0] % (len(audio) // 2)
        requests = [
            StepRequest(slot, audio[place : place + need], first, False, prompt=prompts[slot % len(prompts)])
            for slot, place in ((s, (begin + 1731 * s) % (len(audio) // 2)) for s in range(batch))
        ]
        position[0] += need
        return step_model(model, requests)

    for _ in range(3):
        step()
    return step


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Times one call in milliseconds, the device's work included."""
    begun = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - begun)


def medians(steps: Sequence[Callable[[], object]], budget_s: float, device: torch.device) -> list[float]:
    """Times each function in turn for about so long, 5 rounds at least after two that do not count; median ms."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        timed(step, device)
        timed(step, device)
    began = time.perf_counter()
    while len(times[0]) < 5 or time.perf_counter() - began < budget_s:
        for step, list_ in zip(steps, times, strict=True):
            list_.append(timed(step, device))
    return [statistics.median(t) for t in times]

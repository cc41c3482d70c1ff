"""Finds out whether the Triton kernels work on a device, by comparing steps with those of torch's operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from asr_service.core.errors import first_line
from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.devices import ask_device
from asr_service.model.out_of_memory import is_out_of_memory
from asr_service.model.torch_encoder.encoder import TorchEncoder
from asr_service.model.weights import EncoderWeights

_STEPS = 3
# Of the norms of what two steps make: sums come in another order, and roundings to bf16 or TF32 too.
_MOST_FP32, _MOST_ROUNDED = 1e-3, 3e-2
# How loud the mel frames are; log-mels are between about -17 and 5.
_NOISE = 4.0


def why_without_kernels(
    weights: EncoderWeights,
    plan: ChunkPlan,
    mels: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    tf32: bool,
) -> str:
    """Returns why the Triton kernels cannot serve a model on a device; "" if they can.

    Streams of several ages, one of which ends within its chunk, are stepped by both, from the same random state.

    Args:
        weights, plan, mels: of the model.
        device, dtype, tf32: as of `TorchEncoder`.

    Raises:
        RuntimeError: the device answers no more, or has no memory.
    """
    try:
        make = partial(TorchEncoder, weights, plan, 5, device, dtype, tf32=tf32)
        differs = _difference(make, plan, mels, device)
    except ImportError as error:
        return f"{error.name or 'Triton'} is not installed"
    except Exception as error:
        # Of many types: no compiler, no memory within a multiprocessor, a cache that cannot be written.
        if is_out_of_memory(error):
            raise
        ask_device(device)
        return first_line(error) or type(error).__name__
    most = _MOST_FP32 if dtype == torch.float32 and not tf32 else _MOST_ROUNDED
    # Written such that NaN does not pass.
    return "" if differs <= most else f"a step differs from torch's by {differs:.1e} of its norm"


def _difference(make: Callable[..., TorchEncoder], plan: ChunkPlan, mels: int, device: torch.device) -> float:
    """Returns by how much frames and state of both differ at most, over the norm of torch's; NaN if any of it is."""
    chunk, ring = plan.chunk_frames, plan.left_frames // plan.chunk_frames
    ages = torch.tensor((0, 1, max(0, ring - 1), 2 * ring + 1), device=device)
    real = torch.tensor((chunk, chunk, chunk, (chunk + 1) // 2), device=device)
    slots = torch.tensor((3, 0, 4, 1), device=device)
    plain, fused = make(fused=False), make(fused=True)
    generator = torch.Generator(device).manual_seed(0)
    for one, other in zip(plain.state(), fused.state(), strict=True):
        one.copy_(torch.randn(one.shape, generator=generator, device=device))
        other.copy_(one)
    masks = [
        torch.arange(plan.chunk_mels >> layer, device=device)
        < (real * (plan.chunk_mels >> layer) // chunk)[:, None]
        for layer in range(plan.sampling_layers + 1)
    ]
    differences = []
    for step in range(_STEPS):
        mel = _NOISE * torch.randn(4, plan.chunk_mels, mels, generator=generator, device=device)
        batch = Batch(slots, ages + step, masks, real, any_young=True)
        frames = [encoder.step(batch, mel)[masks[-1]] for encoder in (fused, plain)]
        pairs = [frames, *([a, b] for a, b in zip(fused.state(), plain.state(), strict=True))]
        differences += [_relative(found, expected) for found, expected in pairs]
    # As opposed to Python's own, NumPy's keeps a NaN.
    return float(np.max(differences))


def _relative(found: Tensor, expected: Tensor) -> float:
    norm = float(expected.float().norm())
    return float((found.float() - expected.float()).norm()) / max(norm, 1e-30)

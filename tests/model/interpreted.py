"""Runs the Triton kernels on the CPU and compares a step with that of torch operations; a program, see test_kernels.py.

Triton reads TRITON_INTERPRET when it is imported, so it is set for a process of its own.
"""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from torch import Tensor

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.torch_encoder import kernels
from asr_service.model.torch_encoder.encoder import TorchEncoder
from asr_service.model.torch_encoder.kernel_check import why_without_kernels
from asr_service.model.weights import read_encoder
from testbed.random_parts import random_parts
from testbed.shapes import SHAPES

CASES = (
    ("tiny", (70, 13), "float32"), ("tiny", (70, 6), "bfloat16"), ("tiny", (70, 1), "float32"),
    ("tiny", (70, 1), "bfloat16"), ("tiny", (70, 0), "float32"), ("odd", (56, 3), "bfloat16"),
    ("odd", (28, 6), "bfloat16"), ("odd", (28, 3), "float32"), ("odd", (28, 1), "float32"),
    ("odd", (28, 0), "bfloat16"),
)  # fmt: skip
"""Shapes, look-aheads and types of products: each look-ahead that is published, and others."""
CHECKED = (70, 1)
"""Look-ahead of the step that is checked as before kernels serve."""
# By shape: no powers of two, and heads of another width than the tiles of memory that a program takes.
_HEADS_AND_WIDTH = {"tiny": (2, 64), "odd": (3, 60)}
# The interpreter takes a time that grows with rows, heads and frames; two layers are one that has another after it too.
_LONG_CHUNK = 7


def differences(shape_name: str, context: tuple[int, int], dtype: torch.dtype) -> dict[str, float]:
    """Steps streams of all ages once, from the same random state, and returns how far output and state differ."""
    is_long = context[1] + 1 >= _LONG_CHUNK
    heads, width = _HEADS_AND_WIDTH[shape_name]
    shape = replace(
        SHAPES[shape_name],
        layers=1 if is_long else 2,
        heads=heads,
        d_model=width,
        look_aheads=(context,),
    )
    cpu = torch.device("cpu")
    generator = torch.Generator().manual_seed(1)
    parts, _ = random_parts(shape, cpu)
    plan = _plan(shape.subsampling, context)
    weights = read_encoder(parts.weights, parts.architecture.encoder, plan, shape.mels)
    chunks = plan.left_frames // plan.chunk_frames
    chunk, chunks = plan.chunk_frames, plan.left_frames // plan.chunk_frames
    # The ages and real frames: one that has begun, one that has wrapped and ends within its chunk; of short chunks also
    # one whose ring is full but for a place, and a new one that ends before it has a frame.
    rows = [(1, chunk), (2 * chunks + 1, (chunk + 1) // 2)]
    rows += [] if is_long else [(chunks - 1, chunk), (0, 0), (0, chunk)]
    ages, real = zip(*rows, strict=True)
    size, slots = len(rows), torch.tensor((3, 1, 0, 5, 8))[: len(rows)]
    plain, fused = (TorchEncoder(weights, plan, 9, cpu, dtype, fused=one) for one in (False, True))
    for name in ("_keys", "_values", "_context"):
        pool: Tensor = getattr(plain, name)
        pool.copy_(torch.randn(pool.shape, generator=generator))
        getattr(fused, name).copy_(pool)
    masks = [
        torch.arange(plan.chunk_mels >> layer)
        < torch.tensor(real)[:, None] * (plan.chunk_mels >> layer) // chunk
        for layer in range(plan.sampling_layers + 1)
    ]
    batch = Batch(slots, torch.tensor(ages), masks, torch.tensor(real), any_young=True)
    mel = 3 * torch.randn(size, plan.chunk_mels, shape.mels, generator=generator)
    expected, found = plain.step(batch, mel), fused.step(batch, mel)
    return {"output": _distance(found, expected, masks[-1])} | {
        name: _distance(getattr(fused, name), getattr(plain, name))
        for name in ("_keys", "_values", "_context")
    }


def _plan(subsampling: int, context: tuple[int, int]) -> ChunkPlan:
    chunk = context[1] + 1
    return ChunkPlan(160, 400, subsampling, chunk, context[0] // chunk * chunk)


def _distance(found: Tensor, expected: Tensor, real: Tensor | None = None) -> float:
    """Returns the norm of the difference over that of what is expected; infinity if anything is not finite."""
    if not found.isfinite().all():
        return float("inf")
    if real is not None:
        found, expected = found[real], expected[real]
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def reasons() -> list[str]:
    """Returns why the kernels cannot serve, in both types of products, and then with one that is wrong."""
    shape = replace(SHAPES["tiny"], layers=2, heads=2, d_model=32, look_aheads=(CHECKED,))
    cpu = torch.device("cpu")
    parts, _ = random_parts(shape, cpu)
    plan = _plan(shape.subsampling, CHECKED)
    weights = read_encoder(parts.weights, parts.architecture.encoder, plan, shape.mels)

    def reason(dtype: torch.dtype) -> str:
        return why_without_kernels(weights, plan, shape.mels, cpu, dtype, tf32=False)

    found = [reason(torch.float32), reason(torch.bfloat16)]
    right = kernels.attend
    kernels.attend = lambda *given: 1.5 * right(*given)
    return [*found, reason(torch.bfloat16)]


def main() -> None:
    """Prints the differences of each case, a line of JSON each, and the reasons."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        for shape, context, dtype in CASES:
            print(json.dumps(differences(shape, context, getattr(torch, dtype))), flush=True)
        print(json.dumps(reasons()), flush=True)


if __name__ == "__main__":
    main()

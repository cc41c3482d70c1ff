"""Triton kernels of a Conformer layer: attention over the ring in place, sums and normalisations, the convolution.

What lies between the products of a layer is a matter of memory traffic: here every number is read once and written
once. Arithmetic is in fp32 whatever the type of products and pools, as in the torch step, which these are held to.
With `TRITON_INTERPRET=1` they run on a CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    qkvp, keys, values, slots, steps, real, bias_u, out, row_stride, slot_stride,
    heads: tl.constexpr, d_head: tl.constexpr, left: tl.constexpr, chunk: tl.constexpr, distances: tl.constexpr,
    key_block: tl.constexpr, d_block: tl.constexpr,
):  # fmt: skip
    """One row and head: all queries of its chunk against the ring and the chunk; the new keys and values go in."""
    row = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    chunks: tl.constexpr = left // chunk
    width: tl.constexpr = heads * d_head
    slot = tl.load(slots + row)
    step = tl.load(steps + row)
    count = tl.load(real + row)
    j = tl.arange(0, key_block)
    d = tl.arange(0, d_block)
    in_ring = j < left
    is_new = (j >= left) & (j < left + chunk)
    write = (step % chunks).to(tl.int32)
    place_chunk = j // chunk
    age = (write - place_chunk - 1 + chunks) % chunks + 1
    position = tl.where(in_ring, j % chunk - age * chunk, j - left)
    seen = (in_ring & (place_chunk < step)) | (is_new & (j - left < count))
    ring = slot * slot_stride + head * (left * d_head)
    ring_at = ring + j[:, None] * d_head + d[None, :]
    new = qkvp + (row * chunk) * row_stride + head * d_head
    new_at = (j - left)[:, None] * row_stride + d[None, :]
    in_head = d < d_head
    ring_mask = in_ring[:, None] & in_head[None, :]
    new_mask = is_new[:, None] & in_head[None, :]
    key = tl.load(keys + ring_at, mask=ring_mask, other=0.0).to(tl.float32)
    key += tl.load(new + width + new_at, mask=new_mask, other=0.0).to(tl.float32)
    value = tl.load(values + ring_at, mask=ring_mask, other=0.0).to(tl.float32)
    value += tl.load(new + 2 * width + new_at, mask=new_mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_u + head * d_head + d, mask=in_head, other=0.0)
    by_distance = qkvp + (row * chunk) * row_stride + 3 * width + head * distances
    for c in tl.static_range(chunk):
        query = tl.load(new + c * row_stride + d, mask=in_head, other=0.0).to(tl.float32) + bias
        score = tl.sum(key * query[None, :], axis=1)
        score += tl.load(by_distance + c * row_stride + (c - position + chunk - 1), mask=seen, other=0.0).to(
            tl.float32
        )
        score = tl.where(seen, score, float("-inf"))
        most = tl.max(score, axis=0)
        # A row without a real frame sees nothing; its output is not used, but must be finite.
        most = tl.where(most == float("-inf"), 0.0, most)
        weight = tl.exp(score - most)
        total = tl.sum(weight, axis=0)
        mixed = tl.sum(value * weight[:, None], axis=0) / tl.where(total == 0.0, 1.0, total)
        at = out + (row * chunk + c) * width + head * d_head + d
        tl.store(at, mixed.to(out.dtype.element_ty), mask=in_head)
    # The chunk that is written over is still seen above, by other threads of this program too.
    tl.debug_barrier()
    for c in tl.static_range(chunk):
        to = ring + (write * chunk + c) * d_head + d
        tl.store(keys + to, tl.load(new + width + c * row_stride + d, mask=in_head), mask=in_head)
        tl.store(values + to, tl.load(new + 2 * width + c * row_stride + d, mask=in_head), mask=in_head)


@triton.jit
def _normalised(x, inside, weight, bias, at, eps, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Layer normalisation of one row, 0 beyond its width."""
    mean = tl.sum(x, axis=0) / width
    centred = tl.where(inside, x - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / width + eps)
    return centred * scale * tl.load(weight + at, mask=inside, other=0.0) + tl.load(
        bias + at, mask=inside, other=0.0
    )


@triton.jit
def _add_norm(  # type: ignore[no-untyped-def]
    x, y, weight, bias, weight2, bias2, out, eps,
    width: tl.constexpr, block: tl.constexpr, adds: tl.constexpr, twice: tl.constexpr,
):  # fmt: skip
    """One row: x += y; out = norm(x). If `twice`: x = norm(x + y), out = norm2(x)."""
    row = tl.program_id(0)
    at = tl.arange(0, block)
    inside = at < width
    row_at = row * width + at
    line = tl.load(x + row_at, mask=inside, other=0.0)
    if adds:
        line += tl.load(y + row_at, mask=inside, other=0.0).to(tl.float32)
    if twice:
        line = _normalised(line, inside, weight, bias, at, eps, width)
        made = _normalised(line, inside, weight2, bias2, at, eps, width)
    else:
        made = _normalised(line, inside, weight, bias, at, eps, width)
    if adds or twice:
        tl.store(x + row_at, line, mask=inside)
    tl.store(out + row_at, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated(gates, row, at, inside, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """A frame of the convolution's input: one half of the gates times the sigmoid of the other, in the pool's type."""
    one = tl.load(gates + row * (2 * width) + at, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(gates + row * (2 * width) + width + at, mask=inside, other=0.0).to(tl.float32)
    return (one * tl.sigmoid(other)).to(gates.dtype.element_ty)


@triton.jit
def _convolve(  # type: ignore[no-untyped-def]
    gates, context, slots, taps, tap_bias, weight, bias, out, slot_stride, eps,
    width: tl.constexpr, block: tl.constexpr, chunk: tl.constexpr, kernel: tl.constexpr,
):  # fmt: skip
    """One row: gates, causal depthwise convolution over context and chunk, normalisation, SiLU; the context moves."""
    row = tl.program_id(0)
    at = tl.arange(0, block)
    inside = at < width
    past = context + tl.load(slots + row) * slot_stride + at
    for t in tl.static_range(chunk):
        total = tl.load(tap_bias + at, mask=inside, other=0.0)
        for k in tl.static_range(kernel):
            if t + k < kernel - 1:
                frame = tl.load(past + (t + k) * width, mask=inside, other=0.0)
            else:
                frame = _gated(gates, row * chunk + (t + k - kernel + 1), at, inside, width)
            total += frame.to(tl.float32) * tl.load(taps + k * width + at, mask=inside, other=0.0)
        total = tl.where(inside, total, 0.0)
        made = _normalised(total, inside, weight, bias, at, eps, width)
        made = made * tl.sigmoid(made)
        tl.store(out + (row * chunk + t) * width + at, made.to(out.dtype.element_ty), mask=inside)
    # From the oldest on, so that a frame is read before another is written over it; each thread has its own channels.
    for k in tl.static_range(kernel - 1):
        if chunk + k < kernel - 1:
            frame = tl.load(past + (chunk + k) * width, mask=inside, other=0.0)
        else:
            frame = _gated(gates, row * chunk + (chunk + k - kernel + 1), at, inside, width)
        tl.store(past + k * width, frame, mask=inside)


def _warps(block: int) -> int:
    return max(1, min(8, block // 512))


def attend(
    qkvp: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    steps: Tensor,
    real: Tensor,
    bias_u: Tensor,
    chunk: int,
) -> Tensor:
    """Attends over the rings and the new chunk, and writes the new keys and values into the rings.

    Args:
        qkvp: [B * chunk, 3 * heads * d_head + heads * distances]: queries, keys, values, and the scores of the queries
            by distance, from -(chunk - 1) upwards, head by head.
        keys, values: a layer's pools, [slots, heads, left, d_head], in the type of `qkvp`.
        slots, steps, real: int64 [B]: slots, full steps before, real frames of the chunk.
        bias_u: fp32 [heads, d_head], added to queries for the scores by content.
        chunk: frames of a chunk.

    Returns:
        [B * chunk, heads * d_head], in the type of `qkvp`.
    """
    heads, left, d_head = keys.shape[1:]
    distances = left + 2 * chunk - 1
    # A program holds all of a head's keys and values.
    key_block, d_block = triton.next_power_of_2(left + chunk), triton.next_power_of_2(d_head)
    out = torch.empty(len(qkvp), heads * d_head, device=qkvp.device, dtype=qkvp.dtype)
    _attend[(len(slots) * heads,)](
        qkvp, keys, values, slots, steps, real, bias_u, out, qkvp.stride(0), keys.stride(0),
        heads=heads, d_head=d_head, left=left, chunk=chunk, distances=distances,
        key_block=key_block, d_block=d_block, num_warps=4 if key_block * d_block <= 8192 else 8,
    )  # fmt: skip
    return out


def add_norm(
    x: Tensor, y: Tensor | None, norm: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor] | None, eps: float,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Adds to the residual, in place, and normalises it.

    Args:
        x: the residual, fp32 [rows, width].
        y: what is added to it, [rows, width]; None for nothing.
        norm: weight and bias of the normalisation, fp32 [width].
        then: those of a second one: the residual becomes the first's result then, and this one's is returned.
        eps: of both.
        dtype: of the result.

    Returns:
        [rows, width].
    """
    width = x.shape[1]
    out = torch.empty(x.shape, device=x.device, dtype=dtype)
    block = triton.next_power_of_2(width)
    second = norm if then is None else then
    _add_norm[(len(x),)](
        x, x if y is None else y, *norm, *second, out, eps,
        width=width, block=block, adds=y is not None, twice=then is not None, num_warps=_warps(block),
    )  # fmt: skip
    return out


def convolve(
    gates: Tensor, context: Tensor, slots: Tensor, taps: Tensor, tap_bias: Tensor, norm: tuple[Tensor, Tensor],
    eps: float, chunk: int,
) -> Tensor:  # fmt: skip
    """Runs the middle of a layer's convolution: gates, depthwise taps, normalisation, SiLU. The contexts move on.

    Args:
        gates: [B * chunk, 2 * width].
        context: a layer's pool, [slots, kernel - 1, width], in the type of `gates`.
        slots: int64 [B].
        taps, tap_bias: fp32 [kernel, width] and [width].
        norm: weight and bias of the normalisation, fp32 [width].
        eps: of it.
        chunk: frames of a chunk.

    Returns:
        [B * chunk, width], in the type of `gates`.
    """
    kernel, width = taps.shape
    out = torch.empty(len(gates), width, device=gates.device, dtype=gates.dtype)
    block = triton.next_power_of_2(width)
    _convolve[(len(slots),)](
        gates, context, slots, taps, tap_bias, *norm, out, context.stride(0), eps,
        width=width, block=block, chunk=chunk, kernel=kernel, num_warps=max(1, min(8, block // 128)),
    )  # fmt: skip
    return out

"""The subsampling convolutions as compiled loops, for training on a CPU.

Two fifths of a training step went into the first strided convolutions, which are a few million
multiplications on large arrays: generic kernels spend their time moving memory. These loops keep the channels
innermost, skip what lies beyond an utterance's end, and give what NeMo's masked modules give (see the test).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch

_LEFT = 2  # causal padding of NeMo's CausalConv2D at kernel 3, stride 2; one row follows on the right
_JIT: dict[str, Any] = {"fastmath": True, "cache": True, "boundscheck": False}


@numba.njit(**_JIT)
def _first(x, lengths, weight, bias, out):  # type: ignore[no-untyped-def]
    """out [B, T1, F1, C] = relu(conv(x [B, T, F])); weight [3, 3, C]; rows at or beyond `lengths` [B] are 0."""
    batch, rows, columns, channels = out.shape
    for b in range(batch):
        for t in range(min(rows, lengths[b] // 2 + 1)):
            for f in range(columns):
                cell = out[b, t, f]
                for c in range(channels):
                    cell[c] = bias[c]
                for i in range(3):
                    u = 2 * t + i - _LEFT
                    if u < 0 or u >= lengths[b]:
                        continue
                    for j in range(3):
                        v = 2 * f + j - _LEFT
                        if v < 0 or v >= x.shape[2]:
                            continue
                        value = x[b, u, v]
                        tap = weight[i, j]
                        for c in range(channels):
                            cell[c] += value * tap[c]
                for c in range(channels):
                    cell[c] = max(cell[c], np.float32(0.0))


@numba.njit(**_JIT)
def _first_back(x, lengths, out, grad, grad_weight, grad_bias):  # type: ignore[no-untyped-def]
    """Add the gradients of `_first`'s weight and bias; `grad` [B, T1, F1, C] is of its output."""
    batch, rows, columns, channels = out.shape
    gated = np.empty(channels, np.float32)
    for b in range(batch):
        for t in range(min(rows, lengths[b] // 2 + 1)):
            for f in range(columns):
                cell, slope = out[b, t, f], grad[b, t, f]
                for c in range(channels):
                    gated[c] = slope[c] if cell[c] > 0 else np.float32(0.0)
                for c in range(channels):
                    grad_bias[c] += gated[c]
                for i in range(3):
                    u = 2 * t + i - _LEFT
                    if u < 0 or u >= lengths[b]:
                        continue
                    for j in range(3):
                        v = 2 * f + j - _LEFT
                        if v < 0 or v >= x.shape[2]:
                            continue
                        value = x[b, u, v]
                        tap = grad_weight[i, j]
                        for c in range(channels):
                            tap[c] += value * gated[c]


@numba.njit(**_JIT)
def _depthwise(x, lengths, weight, bias, out):  # type: ignore[no-untyped-def]
    """out [B, T2, F2, C] = depthwise conv of x [B, T1, F1, C], whose rows at or beyond `lengths` count as 0."""
    batch, rows, columns, channels = out.shape
    for b in range(batch):
        for t in range(min(rows, lengths[b] // 2 + 1)):
            for f in range(columns):
                cell = out[b, t, f]
                for c in range(channels):
                    cell[c] = bias[c]
                for i in range(3):
                    u = 2 * t + i - _LEFT
                    if u < 0 or u >= lengths[b]:
                        continue
                    for j in range(3):
                        v = 2 * f + j - _LEFT
                        if v < 0 or v >= x.shape[2]:
                            continue
                        value, tap = x[b, u, v], weight[i, j]
                        for c in range(channels):
                            cell[c] += value[c] * tap[c]


@numba.njit(**_JIT)
def _depthwise_back(x, lengths, weight, grad, grad_x, grad_weight, grad_bias):  # type: ignore[no-untyped-def]
    """Add the gradients of `_depthwise`'s input, weight and bias."""
    batch, rows, columns, channels = grad.shape
    for b in range(batch):
        for t in range(min(rows, lengths[b] // 2 + 1)):
            for f in range(columns):
                slope = grad[b, t, f]
                for c in range(channels):
                    grad_bias[c] += slope[c]
                for i in range(3):
                    u = 2 * t + i - _LEFT
                    if u < 0 or u >= lengths[b]:
                        continue
                    for j in range(3):
                        v = 2 * f + j - _LEFT
                        if v < 0 or v >= x.shape[2]:
                            continue
                        value, tap, back, sums = x[b, u, v], weight[i, j], grad_x[b, u, v], grad_weight[i, j]
                        for c in range(channels):
                            back[c] += slope[c] * tap[c]
                            sums[c] += slope[c] * value[c]


def _halved(size: int) -> int:
    return size // 2 + 1


def _taps(weight: torch.Tensor) -> np.ndarray:
    """Lay a convolution's weight [C, 1, 3, 3] out as [3, 3, C]."""
    return np.ascontiguousarray(weight.detach()[:, 0].permute(1, 2, 0).numpy())


class _First(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, lengths: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        out = torch.zeros(len(x), _halved(x.shape[1]), _halved(x.shape[2]), len(weight))
        _first(x.numpy(), lengths.numpy(), _taps(weight), bias.detach().numpy(), out.numpy())
        ctx.save_for_backward(x, lengths, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, None, torch.Tensor, torch.Tensor]:
        x, lengths, out = ctx.saved_tensors
        channels = out.shape[3]
        grad_weight, grad_bias = np.zeros((3, 3, channels), np.float32), np.zeros(channels, np.float32)
        grad = grads[0].contiguous().numpy()
        _first_back(x.numpy(), lengths.numpy(), out.numpy(), grad, grad_weight, grad_bias)
        return (
            None,
            None,
            torch.from_numpy(grad_weight).permute(2, 0, 1)[:, None],
            torch.from_numpy(grad_bias),
        )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, lengths: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        out = torch.zeros(len(x), _halved(x.shape[1]), _halved(x.shape[2]), len(weight))
        _depthwise(x.detach().numpy(), lengths.numpy(), _taps(weight), bias.detach().numpy(), out.numpy())
        ctx.save_for_backward(x, lengths, weight)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor, torch.Tensor]:
        x, lengths, weight = ctx.saved_tensors
        channels = x.shape[3]
        grad_x = torch.zeros_like(x)
        grad_weight, grad_bias = np.zeros((3, 3, channels), np.float32), np.zeros(channels, np.float32)
        _depthwise_back(
            x.detach().numpy(), lengths.numpy(), _taps(weight), grads[0].contiguous().numpy(), grad_x.numpy(),
            grad_weight, grad_bias,
        )  # fmt: skip
        return (
            grad_x,
            None,
            torch.from_numpy(grad_weight).permute(2, 0, 1)[:, None],
            torch.from_numpy(grad_bias),
        )


def install(convolutions: Any) -> None:
    """Replace the forward of the encoder's `pre_encode.conv` (dw_striding, factor 8, causal) by the loops."""
    first, _, depth1, point1, _, depth2, point2, _ = convolutions

    def pointwise(x: torch.Tensor, layer: Any) -> torch.Tensor:
        return torch.relu(torch.nn.functional.linear(x, layer.weight[:, :, 0, 0], layer.bias))

    def forward(x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", enabled=False):
            size = lengths.long()
            h = _First.apply(x.float().contiguous(), size, first.weight, first.bias)
            h = _Depthwise.apply(h, size := size // 2 + 1, depth1.weight, depth1.bias)
            h = _Depthwise.apply(pointwise(h, point1), size := size // 2 + 1, depth2.weight, depth2.bias)
            size = size // 2 + 1
            inside = torch.arange(h.shape[1])[None, :] < size[:, None]
            h = pointwise(h, point2) * inside[:, :, None, None]
        return h.permute(0, 3, 1, 2), size

    convolutions.forward = forward

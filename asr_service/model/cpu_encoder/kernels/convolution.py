"""The convolution module of a Conformer layer between its two products."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from asr_service.model.cpu_encoder.compiling import Array, Float, Int, compiled
from asr_service.model.cpu_encoder.kernels.rows import exponential, normalise, put, read_row, swish, write_row


class ConvolutionWeights(NamedTuple):
    """Of one layer.

    Attributes:
        taps: float32 [kernel, d].
        bias, norm_weight, norm_bias: float32 [d].
        eps: of the normalisation.
    """

    taps: Array
    bias: Array
    norm_weight: Array
    norm_bias: Array
    eps: Float


@compiled(parallel=True)
def convolve(
    gates: Array,
    context: Array,
    slots: Array,
    taps: Array,
    bias: Array,
    norm_weight: Array,
    norm_bias: Array,
    eps: Float,
    out: Array,
) -> None:
    """`convolve_row` of all rows; weights one by one, as in `attention.attend`."""
    weights = ConvolutionWeights(taps, bias, norm_weight, norm_bias, eps)
    for b in prange(gates.shape[0]):
        # Numba counts unsigned here, and would compile the row for that as well.
        convolve_row(np.int64(b), gates, context, slots, weights, out)


@compiled
def convolve_row(
    b: Int, gates: Array, context: Array, slots: Array, weights: ConvolutionWeights, out: Array
) -> None:
    """Gated linear unit, causal depthwise convolution, layer normalisation, swish.

    Args:
        b: which row.
        gates: [B, chunk, 2 d].
        context: pool [slots, kernel - 1, d], brought up to date.
        slots: int64 [B].
        weights: of the layer.
        out: [B x chunk, at least d], or three such planes: see `put`.
    """
    _, chunk, twice = gates.shape
    width = twice // 2
    taps, bias = weights.taps, weights.bias
    kernel = taps.shape[0]
    slot = slots[b]
    frames = np.empty((kernel - 1 + chunk, width), np.float32)
    gate = np.empty(width, np.float32)
    scratch = np.empty(width, np.float32)
    row = np.empty(width, np.float32)
    for k in range(kernel - 1):
        read_row(context[slot, k], frames[k])
    for t in range(chunk):
        read_row(gates[b, t, :width], row)
        read_row(gates[b, t, width:], gate)
        for d in range(width):
            gate[d] = -gate[d]
        exponential(gate, scratch, width)
        for d in range(width):
            frames[kernel - 1 + t, d] = row[d] / (np.float32(1.0) + gate[d])
    for t in range(chunk):
        for d in range(width):
            row[d] = bias[d]
        for k in range(kernel):
            for d in range(width):
                row[d] += taps[k, d] * frames[t + k, d]
        normalise(row, weights.norm_weight, weights.norm_bias, weights.eps)
        swish(row, gate, scratch)
        put(row, out, b * chunk + t, 0)
    for k in range(kernel - 1):
        write_row(frames[chunk + k], context[slot, k])

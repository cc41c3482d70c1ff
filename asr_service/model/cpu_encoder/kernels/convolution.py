"""The convolution module of a Conformer layer between its two products."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from asr_service.model.cpu_encoder.kernels.rows import LOOSE, exponential, load, normalise, put, store, swish


@njit(parallel=True, fastmath=LOOSE, nogil=True, cache=True)
def convolve(gates, context, slots, weight, bias, norm_weight, norm_bias, eps, out):  # type: ignore[no-untyped-def]
    """`convolve_row` of all rows."""
    for b in prange(gates.shape[0]):
        convolve_row(b, gates, context, slots, weight, bias, norm_weight, norm_bias, eps, out)


@njit(fastmath=LOOSE, nogil=True, cache=True)
def convolve_row(b, gates, context, slots, weight, bias, norm_weight, norm_bias, eps, out):  # type: ignore[no-untyped-def]
    """Gated linear unit, causal depthwise convolution, layer normalisation, swish.

    Args:
        b: which row.
        gates: [B, chunk, 2 d].
        context: pool [slots, kernel - 1, d], brought up to date.
        slots: int64 [B].
        weight: float32 [kernel, d].
        bias, norm_weight, norm_bias: float32 [d].
        eps: of the normalisation.
        out: [B x chunk, at least d], or three such planes: see `put`.
    """
    _, chunk, twice = gates.shape
    width = twice // 2
    kernel = weight.shape[0]
    slot = slots[b]
    frames = np.empty((kernel - 1 + chunk, width), np.float32)
    gate = np.empty(width, np.float32)
    scratch = np.empty(width, np.float32)
    row = np.empty(width, np.float32)
    for k in range(kernel - 1):
        load(context[slot, k], frames[k])
    for t in range(chunk):
        load(gates[b, t, :width], row)
        load(gates[b, t, width:], gate)
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
                row[d] += weight[k, d] * frames[t + k, d]
        normalise(row, norm_weight, norm_bias, eps)
        swish(row, gate, scratch)
        put(row, out, b * chunk + t, 0)
    for k in range(kernel - 1):
        store(frames[chunk + k], context[slot, k])

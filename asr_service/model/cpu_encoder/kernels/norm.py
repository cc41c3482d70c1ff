"""Layer normalisations between the products of a library, fused with the sums before them."""

from __future__ import annotations

import numpy as np
from numba import prange

from asr_service.model.cpu_encoder.compiling import Array, Float, compiled
from asr_service.model.cpu_encoder.kernels.rows import normalise, read_row, write_row


@compiled(parallel=True)
def norm(x: Array, weight: Array, bias: Array, eps: Float, out: Array) -> None:
    """out = norm(x); x float32 [n, d], out [n, d]."""
    for r in prange(x.shape[0]):
        row = np.empty(x.shape[1], np.float32)
        read_row(x[r], row)
        normalise(row, weight, bias, eps)
        write_row(row, out[r])


@compiled(parallel=True)
def add_norm(x: Array, delta: Array, weight: Array, bias: Array, eps: Float, out: Array) -> None:
    """x += delta; out = norm(x). All [n, d], x float32."""
    for r in prange(x.shape[0]):
        row = np.empty(x.shape[1], np.float32)
        read_row(delta[r], row)
        for i in range(row.shape[0]):
            row[i] += x[r, i]
            x[r, i] = row[i]
        normalise(row, weight, bias, eps)
        write_row(row, out[r])


@compiled(parallel=True)
def add_norm_norm(
    x: Array,
    delta: Array,
    weight: Array,
    bias: Array,
    eps: Float,
    next_weight: Array,
    next_bias: Array,
    out: Array,
) -> None:
    """x = norm(x + delta), the end of a layer; out = norm of that by the next layer's first weights."""
    for r in prange(x.shape[0]):
        row = np.empty(x.shape[1], np.float32)
        read_row(delta[r], row)
        for i in range(row.shape[0]):
            row[i] += x[r, i]
        normalise(row, weight, bias, eps)
        for i in range(row.shape[0]):
            x[r, i] = row[i]
        normalise(row, next_weight, next_bias, eps)
        write_row(row, out[r])

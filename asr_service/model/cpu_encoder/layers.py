"""All Conformer layers of a step as one compiled function that a few threads run together.

Between a product library and Python, a batch of one spends as long on calls as on reading weights. Here the threads go
through the phases of every layer by themselves (`cpu_team.py`): eight products, attention, convolution and five
normalisations. Weights are read once, in the order in which they lie in memory; everything else stays in the
processor's caches. What becomes of a product (swish, or the sum with the residual) happens to each block of 32 columns
while it is warm.

Three kinds of product, told apart by the types of the weights and of their input: bfloat16 tiles (`cpu_tiles.py`),
float32 by three parts on the same tiles (`cpu_split.py`), and float32 on vectors (`cpu_floats.py`) for a few rows, or
where there are no tiles.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from asr_service.model.cpu_encoder.isa.amx import COLUMNS, SUMS, start_tiles, stop_tiles
from asr_service.model.cpu_encoder.isa.vectors import ADD, STORE, SWISH
from asr_service.model.cpu_encoder.kernels.attention import attend_jobs
from asr_service.model.cpu_encoder.kernels.barrier import claim, done, wait
from asr_service.model.cpu_encoder.kernels.convolution import convolve_row
from asr_service.model.cpu_encoder.kernels.gemm_bf16_amx import tile_block
from asr_service.model.cpu_encoder.kernels.gemm_fp32 import float_block
from asr_service.model.cpu_encoder.kernels.gemm_fp32_amx import split_block
from asr_service.model.cpu_encoder.kernels.rows import LOOSE, load, normalise, put, store

PHASES = 15
"""Of a layer."""
_ROWS = 8  # rows of a normalisation that are one item
_UP1, _DOWN1, _QKV, _ATT, _CONV_IN, _CONV_OUT, _UP2, _DOWN2 = range(8)
_N_FF1, _N_ATT, _N_CONV, _N_INNER, _N_FF2, _N_OUT = range(6)


def _block(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts):  # type: ignore[no-untyped-def]
    """`tile_block`, `split_block` or `float_block`. Decided while compiling."""
    raise AssertionError("only compiled code calls this")


@overload(_block, inline="always")
def _block_overload(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts):  # type: ignore[no-untyped-def]
    if weights.dtype == types.uint16:
        return lambda a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts: (
            tile_block(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts)
        )
    if a.dtype == types.uint16:
        return lambda a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts: (
            split_block(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts)
        )
    return lambda a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts: float_block(
        a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums, parts
    )


def _begin(h, config):  # type: ignore[no-untyped-def]
    """Sets up the thread's tile registers if the products need them. Decided while compiling: others have none."""
    raise AssertionError("only compiled code calls this")


@overload(_begin, inline="always")
def _begin_overload(h, config):  # type: ignore[no-untyped-def]
    if h.dtype == types.uint16:
        return lambda h, config: start_tiles(config)
    return lambda h, config: None


def _end(h):  # type: ignore[no-untyped-def]
    """Gives them back."""
    raise AssertionError("only compiled code calls this")


@overload(_end, inline="always")
def _end_overload(h):  # type: ignore[no-untyped-def]
    if h.dtype == types.uint16:
        return lambda h: stop_tiles()
    return lambda h: None


@njit(fastmath=LOOSE, nogil=True, cache=True)
def _product(counts, phase, rows, a, products, layer, which, kind, out, x, scratch):  # type: ignore[no-untyped-def]
    """Product `which` of a layer: `a` times its weights, to `out` or added to `x`."""
    weights, bases, shapes, biases, shifts = products
    sums, parts = scratch
    depth, columns = shapes[which, 0], shapes[which, 1]
    base, shift = bases[layer, which], shifts[layer, which]
    bias = biases[shift : shift + columns]
    blocks = columns // COLUMNS
    mine = 0
    item = claim(counts, phase)
    while item < blocks:
        after = claim(counts, phase)
        coming = after if after < blocks else np.int64(-1)
        _block(a, rows, depth, weights, base, bias, item, coming, kind, out, x, sums, parts)
        mine += 1
        item = after
    if mine:
        done(counts, phase, mine)
    wait(counts, phase, blocks)


@njit(fastmath=LOOSE, nogil=True, cache=True)
def _norm(counts, phase, rows, x, first, second, eps, h, row):  # type: ignore[no-untyped-def]
    """h = norm(x) by weights `first` [2, d]; or, if `second` has two rows, x = norm(x) and h = norm of that by it."""
    items = (rows + _ROWS - 1) // _ROWS
    item = claim(counts, phase)
    while item < items:
        for r in range(item * _ROWS, min((item + 1) * _ROWS, rows)):
            load(x[r], row)
            normalise(row, first[0], first[1], eps)
            if second.shape[0] == 2:
                store(row, x[r])
                normalise(row, second[0], second[1], eps)
            put(row, h, r, 0)
        done(counts, phase, 1)
        item = claim(counts, phase)
    wait(counts, phase, items)


@njit(fastmath=LOOSE, nogil=True, cache=True)
def _attend(counts, phase, qkv, keys, values, positions, biases, slots, steps, real, ring, h):  # type: ignore[no-untyped-def]
    jobs = qkv.shape[0] * qkv.shape[3]
    group = 1 if jobs < 64 else 8
    items = (jobs + group - 1) // group
    item = claim(counts, phase)
    while item < items:
        attend_jobs(
            item * group, min((item + 1) * group, jobs),
            qkv, keys, values, positions, biases[0], biases[1], slots, steps, real, ring, h,
        )  # fmt: skip
        done(counts, phase, 1)
        item = claim(counts, phase)
    wait(counts, phase, items)


@njit(fastmath=LOOSE, nogil=True, cache=True)
def _convolve(counts, phase, gates, context, slots, weight, bias, norm, eps, h):  # type: ignore[no-untyped-def]
    items = gates.shape[0]
    item = claim(counts, phase)
    while item < items:
        convolve_row(item, gates, context, slots, weight, bias, norm[0], norm[1], eps, h)
        done(counts, phase, 1)
        item = claim(counts, phase)
    wait(counts, phase, items)


@njit(fastmath=LOOSE, nogil=True, cache=True)
def _run_part(  # type: ignore[no-untyped-def]
    counts, x, h, wide, qkv, gates, parts, products, small, pools, slots, steps, real, ring, eps, config
):
    """One thread's part; arguments as in `run_layers`."""
    norms, conv_weights, conv_biases, positions, attention_biases = small
    all_keys, all_values, contexts = pools
    rows, layers = x.shape[0], norms.shape[0]
    scratch = (np.empty(SUMS, np.float32), parts)
    row = np.empty(x.shape[1], np.float32)
    heads, d_head = attention_biases.shape[2], attention_biases.shape[3]
    size = slots.shape[0]
    chunk = rows // size
    split = qkv.reshape((size, chunk, 3, heads, d_head))
    gated = gates.reshape((size, chunk, gates.shape[1]))
    none = norms[0, 0, :0]
    _begin(h, config)
    _norm(counts, layers * PHASES, rows, x, norms[0, _N_FF1], none, eps, h, row)
    for n in range(layers):
        p, norm = n * PHASES, norms[n]
        _product(counts, p, rows, h, products, n, _UP1, SWISH, wide, x, scratch)
        _product(counts, p + 1, rows, wide, products, n, _DOWN1, ADD, h, x, scratch)
        _norm(counts, p + 2, rows, x, norm[_N_ATT], none, eps, h, row)
        _product(counts, p + 3, rows, h, products, n, _QKV, STORE, qkv, x, scratch)
        _attend(
            counts, p + 4, split, all_keys[n], all_values[n], positions[n], attention_biases[n], slots, steps, real,
            ring, h,
        )  # fmt: skip
        _product(counts, p + 5, rows, h, products, n, _ATT, ADD, h, x, scratch)
        _norm(counts, p + 6, rows, x, norm[_N_CONV], none, eps, h, row)
        _product(counts, p + 7, rows, h, products, n, _CONV_IN, STORE, gates, x, scratch)
        _convolve(
            counts, p + 8, gated, contexts[n], slots, conv_weights[n], conv_biases[n], norm[_N_INNER], eps, h
        )
        _product(counts, p + 9, rows, h, products, n, _CONV_OUT, ADD, h, x, scratch)
        _norm(counts, p + 10, rows, x, norm[_N_FF2], none, eps, h, row)
        _product(counts, p + 11, rows, h, products, n, _UP2, SWISH, wide, x, scratch)
        _product(counts, p + 12, rows, wide, products, n, _DOWN2, ADD, h, x, scratch)
        _norm(counts, p + 13, rows, x, norm[_N_OUT], norms[(n + 1) % layers, _N_FF1], eps, h, row)
    _end(h)


@njit(parallel=True, fastmath=LOOSE, nogil=True, cache=True)
def run_layers(  # type: ignore[no-untyped-def]
    threads,
    counts,
    x,
    h,
    wide,
    qkv,
    gates,
    parts,
    products,
    small,
    pools,
    slots,
    steps,
    real,
    ring,
    eps,
    config,
):
    """All layers, in place on the residual stream.

    Args:
        threads: how many to use.
        counts: from `counters`, zero.
        x: float32 [rows, d].
        h: scratch of the products' type [rows up to a multiple of 32, at least d], or its three parts [3, ...].
        wide: scratch [the same rows, at least ff], or its three parts.
        qkv, gates: scratch of the pools' type [rows, 3 d] and [rows, 2 d].
        parts: scratch of the threads for weights in three parts, uint8 [threads, at least ff / 32 x PARTS_STEP].
        products: flat weights; where each begins, int64 [layers, 8]; (inputs, columns) of each, int64 [8, 2]; flat
            biases, float32; where each begins, int64 [layers, 8].
        small: normalisations float32 [layers, 6, 2, d]; convolutions [layers, kernel, d] and biases [layers, d];
            positions [layers, heads, d_head, distances]; attention biases [layers, 2, heads, d_head].
        pools: keys, values and convolution contexts, by layer.
        slots, steps, real, ring, eps: as in `attend_jobs` and `convolve_row`.
        config: from `tile_config`; not looked at if no product uses tiles.
    """
    for thread in prange(threads):
        _run_part(
            counts, x, h, wide, qkv, gates, parts[thread], products, small, pools, slots, steps, real, ring, eps,
            config,
        )  # fmt: skip

"""All Conformer layers of a step as one compiled function that a few threads run together.

Between a product library and Python, a batch of one spends as long on calls as on reading weights. Here the threads go
through the phases of every layer by themselves (`cpu_team.py`): eight products, attention, convolution and five
normalisations. Weights are read once, in the order in which they lie in memory; everything else stays in the
processor's caches. What becomes of a product (swish, or the sum with the residual) happens to each block of 32 columns
while it is warm.

Two kinds of product: bfloat16 tiles for any number of rows (`cpu_tiles.py`), and float32 dot products for a few rows,
where reading the weights is all there is to a product. Which one, the weights' type says.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from asr_service.model.cpu_kernels import attend_jobs, convolve_row
from asr_service.model.cpu_rows import LOOSE, load, normalise, store, swish
from asr_service.model.cpu_team import claim, done, wait
from asr_service.model.cpu_tiles import (
    ADD,
    COLUMNS,
    STORE,
    SWISH,
    ask,
    start_tiles,
    stop_tiles,
    tile_block,
)

PHASES = 15
"""Of a layer."""
_ROWS = 8  # rows of a normalisation that are one item
_UP1, _DOWN1, _QKV, _ATT, _CONV_IN, _CONV_OUT, _UP2, _DOWN2 = range(8)
_N_FF1, _N_ATT, _N_CONV, _N_INNER, _N_FF2, _N_OUT = range(6)


@njit(fastmath=LOOSE, nogil=True, cache=True)
def dot_block(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums):  # type: ignore[no-untyped-def]
    """As `tile_block`, of float32: weights [columns, depth] as they are, a few rows."""
    first = block * COLUMNS
    start = np.int64(weights.ctypes.data) + 4 * (np.int64(base) + np.int64(coming) * COLUMNS * depth)
    for c in range(COLUMNS):
        begin = base + (first + c) * depth
        if coming >= 0:
            for line in range(depth // 16):
                ask(start + (c * depth + line * 16) * 4)
        w = weights[begin : begin + depth]
        for r in range(0, rows, 2):
            u, v = a[r], a[min(r + 1, rows - 1)]
            s, t = np.float32(0.0), np.float32(0.0)
            for k in range(depth):
                s += u[k] * w[k]
                t += v[k] * w[k]
            sums[r * COLUMNS + c] = s
            sums[(r + 1) * COLUMNS + c] = t
    for r in range(rows):
        row = sums[r * COLUMNS : (r + 1) * COLUMNS]
        for c in range(COLUMNS):
            row[c] += bias[first + c]
        if kind == ADD:
            for c in range(COLUMNS):
                x[r, first + c] += row[c]
        else:
            if kind == SWISH:
                swish(row, sums[512 : 512 + COLUMNS], sums[600 : 600 + COLUMNS])
            for c in range(COLUMNS):
                out[r, first + c] = row[c]


def _block(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums):  # type: ignore[no-untyped-def]
    """`tile_block` or `dot_block`. Decided while compiling."""
    raise AssertionError("only compiled code calls this")


@overload(_block, inline="always")
def _block_overload(a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums):  # type: ignore[no-untyped-def]
    if weights.dtype == types.uint16:
        return lambda a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums: tile_block(
            a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums
        )
    return lambda a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums: dot_block(
        a, rows, depth, weights, base, bias, block, coming, kind, out, x, sums
    )


def _begin(weights, config):  # type: ignore[no-untyped-def]
    """Sets up the thread's tile registers if the products need them. Decided while compiling: others have none."""
    raise AssertionError("only compiled code calls this")


@overload(_begin, inline="always")
def _begin_overload(weights, config):  # type: ignore[no-untyped-def]
    if weights.dtype == types.uint16:
        return lambda weights, config: start_tiles(config)
    return lambda weights, config: None


def _end(weights):  # type: ignore[no-untyped-def]
    """Gives them back."""
    raise AssertionError("only compiled code calls this")


@overload(_end, inline="always")
def _end_overload(weights):  # type: ignore[no-untyped-def]
    if weights.dtype == types.uint16:
        return lambda weights: stop_tiles()
    return lambda weights: None


@njit(fastmath=LOOSE, nogil=True, cache=True)
def _product(counts, phase, rows, a, shape, weights, base, biases, shift, kind, out, x, sums):  # type: ignore[no-untyped-def]
    """One product; `shape` is (inputs, columns), `base` and `shift` say where its weights and bias begin."""
    depth, columns = shape[0], shape[1]
    blocks = columns // COLUMNS
    bias = biases[shift : shift + columns]
    mine = 0
    item = claim(counts, phase)
    while item < blocks:
        after = claim(counts, phase)
        coming = after if after < blocks else np.int64(-1)
        _block(a, rows, depth, weights, base, bias, item, coming, kind, out, x, sums)
        mine += 1
        item = after
    if mine:
        done(counts, phase, mine)
    wait(counts, phase, blocks)


@njit(fastmath=LOOSE, nogil=True, cache=True)
def _norm(counts, phase, rows, x, first, second, eps, h, row):  # type: ignore[no-untyped-def]
    """h = norm(x) by weights `first` [2, d]; or, if `second` has two rows, x = norm(x) and h = norm of that by it."""
    items, width = (rows + _ROWS - 1) // _ROWS, x.shape[1]
    item = claim(counts, phase)
    while item < items:
        for r in range(item * _ROWS, min((item + 1) * _ROWS, rows)):
            load(x[r], row)
            normalise(row, first[0], first[1], eps)
            if second.shape[0] == 2:
                store(row, x[r])
                normalise(row, second[0], second[1], eps)
            store(row, h[r, :width])
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
def _run_part(counts, x, h, wide, qkv, gates, products, small, pools, slots, steps, real, ring, eps, config):  # type: ignore[no-untyped-def]
    """One thread's part; arguments as in `run_layers`."""
    weights, bases, shapes, biases, shifts = products
    norms, conv_weights, conv_biases, positions, attention_biases = small
    all_keys, all_values, contexts = pools
    rows, layers = x.shape[0], bases.shape[0]
    sums, row = np.empty(1024, np.float32), np.empty(x.shape[1], np.float32)
    heads, d_head = attention_biases.shape[2], attention_biases.shape[3]
    size = slots.shape[0]
    chunk = rows // size
    split = qkv.reshape((size, chunk, 3, heads, d_head))
    gated = gates.reshape((size, chunk, gates.shape[1]))
    none = norms[0, 0, :0]
    _begin(weights, config)
    _norm(counts, layers * PHASES, rows, x, norms[0, _N_FF1], none, eps, h, row)
    for layer in range(layers):
        p = layer * PHASES
        base, shift, norm = bases[layer], shifts[layer], norms[layer]
        _product(
            counts, p, rows, h, shapes[_UP1], weights, base[_UP1], biases, shift[_UP1], SWISH, wide, x, sums
        )
        _product(
            counts,
            p + 1,
            rows,
            wide,
            shapes[_DOWN1],
            weights,
            base[_DOWN1],
            biases,
            shift[_DOWN1],
            ADD,
            h,
            x,
            sums,
        )
        _norm(counts, p + 2, rows, x, norm[_N_ATT], none, eps, h, row)
        _product(
            counts,
            p + 3,
            rows,
            h,
            shapes[_QKV],
            weights,
            base[_QKV],
            biases,
            shift[_QKV],
            STORE,
            qkv,
            x,
            sums,
        )
        _attend(
            counts, p + 4, split, all_keys[layer], all_values[layer], positions[layer], attention_biases[layer],
            slots, steps, real, ring, h,
        )  # fmt: skip
        _product(
            counts, p + 5, rows, h, shapes[_ATT], weights, base[_ATT], biases, shift[_ATT], ADD, h, x, sums
        )
        _norm(counts, p + 6, rows, x, norm[_N_CONV], none, eps, h, row)
        _product(
            counts,
            p + 7,
            rows,
            h,
            shapes[_CONV_IN],
            weights,
            base[_CONV_IN],
            biases,
            shift[_CONV_IN],
            STORE,
            gates,
            x,
            sums,
        )
        _convolve(
            counts, p + 8, gated, contexts[layer], slots, conv_weights[layer], conv_biases[layer], norm[_N_INNER],
            eps, h,
        )  # fmt: skip
        _product(
            counts,
            p + 9,
            rows,
            h,
            shapes[_CONV_OUT],
            weights,
            base[_CONV_OUT],
            biases,
            shift[_CONV_OUT],
            ADD,
            h,
            x,
            sums,
        )
        _norm(counts, p + 10, rows, x, norm[_N_FF2], none, eps, h, row)
        _product(
            counts,
            p + 11,
            rows,
            h,
            shapes[_UP2],
            weights,
            base[_UP2],
            biases,
            shift[_UP2],
            SWISH,
            wide,
            x,
            sums,
        )
        _product(
            counts,
            p + 12,
            rows,
            wide,
            shapes[_DOWN2],
            weights,
            base[_DOWN2],
            biases,
            shift[_DOWN2],
            ADD,
            h,
            x,
            sums,
        )
        _norm(counts, p + 13, rows, x, norm[_N_OUT], norms[(layer + 1) % layers, _N_FF1], eps, h, row)
    _end(weights)


@njit(parallel=True, fastmath=LOOSE, nogil=True, cache=True)
def run_layers(  # type: ignore[no-untyped-def]
    threads, counts, x, h, wide, qkv, gates, products, small, pools, slots, steps, real, ring, eps, config
):
    """All layers, in place on the residual stream.

    Args:
        threads: how many to use.
        counts: from `counters`, zero.
        x: float32 [rows, d].
        h: scratch of the products' type [rows up to a multiple of 32, at least d].
        wide: scratch [the same rows, at least ff].
        qkv, gates: scratch [rows, 3 d] and [rows, 2 d].
        products: flat weights; where each begins, int64 [layers, 8]; (inputs, columns) of each, int64 [8, 2]; flat
            biases, float32; where each begins, int64 [layers, 8].
        small: normalisations float32 [layers, 6, 2, d]; convolutions [layers, kernel, d] and biases [layers, d];
            positions [layers, heads, d_head, distances]; attention biases [layers, 2, heads, d_head].
        pools: keys, values and convolution contexts, by layer.
        slots, steps, real, ring, eps: as in `attend_jobs` and `convolve_row`.
        config: from `tile_config`; not looked at if the products are float32.
    """
    for _ in prange(threads):
        _run_part(
            counts, x, h, wide, qkv, gates, products, small, pools, slots, steps, real, ring, eps, config
        )

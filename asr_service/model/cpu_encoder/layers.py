"""All Conformer layers of a step as one compiled function that a few threads run together.

Between a product library and Python, a batch of one spends as long on calls as on reading weights. Here the threads go
through the phases of every layer by themselves (`kernels/barrier.py`): eight products, attention, convolution and five
normalisations. Weights are read once, in the order in which they lie in memory; everything else stays in the
processor's caches. What becomes of a product (swish, or the sum with the residual) happens to each block of 32 columns
while it is warm.

Which kind of product it is follows from the types of the weights and of their inputs (`kernels/gemm_choice.py`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numba import prange

from asr_service.model.cpu_encoder.compiling import Array, Float, Int, compiled
from asr_service.model.cpu_encoder.isa.amx import SUMS
from asr_service.model.cpu_encoder.isa.tiles import TileUnit, start_tiles, stop_tiles
from asr_service.model.cpu_encoder.isa.vectors import COLUMNS
from asr_service.model.cpu_encoder.kernels.attention import (
    AttentionWeights,
    KeyValuePools,
    Streams,
    attend_jobs,
)
from asr_service.model.cpu_encoder.kernels.barrier import claim, done, wait
from asr_service.model.cpu_encoder.kernels.convolution import ConvolutionWeights, convolve_row
from asr_service.model.cpu_encoder.kernels.gemm import BlockScratch, Finish, Product
from asr_service.model.cpu_encoder.kernels.gemm_choice import multiply_block
from asr_service.model.cpu_encoder.kernels.rows import normalise, put, read_row, write_row
from asr_service.model.cpu_encoder.packing import Buffers, NormIndex, ProductIndex, StackedWeights


class Phase(IntEnum):
    """What threads do to a layer, in this order; each is done before the next begins."""

    FF1_UP = 0
    FF1_DOWN = 1
    NORM_ATT = 2
    QKV = 3
    ATTEND = 4
    ATT_OUT = 5
    NORM_CONV = 6
    CONV_IN = 7
    CONVOLVE = 8
    CONV_OUT = 9
    NORM_FF2 = 10
    FF2_UP = 11
    FF2_DOWN = 12
    NORM_OUT = 13


_PHASES = len(Phase)
# Rows of a normalisation that are one item.
_NORM_ROWS = 8
# Pairs of attention that are one item where there are many.
_MANY_JOBS, _JOBS = 64, 8


class Pools(NamedTuple):
    """State of all slots, by layer.

    Attributes:
        keys, values: [layers, ...] as in `attention.KeyValuePools`.
        context: [layers, slots, kernel - 1, d], the convolution's past.
    """

    keys: Array
    values: Array
    context: Array


class Worker(NamedTuple):
    """What a thread works with.

    Attributes:
        counts: the counters of all threads' phases.
        scratch: its own memory for blocks.
        row: its own memory for a row, float32 [d].
        tiles: the unit for products on tiles.
    """

    counts: Array
    scratch: BlockScratch
    row: Array
    tiles: TileUnit


def phases(layers: int) -> int:
    """How many phases a step of so many layers has: those of each, and a normalisation before the first."""
    return layers * _PHASES + 1


@compiled
def _product(
    worker: Worker,
    phase: Int,
    inputs: Array,
    weights: StackedWeights,
    layer: Int,
    which: Int,
    finish: Int,
    out: Array,
    residual: Array,
) -> None:
    """This thread's blocks of product `which` of a layer: to `out`, or added to `residual`."""
    counts, scratch, tiles = worker.counts, worker.scratch, worker.tiles
    depth, columns = weights.product_shapes[which, 0], weights.product_shapes[which, 1]
    first_bias = weights.bias_offsets[layer, which]
    bias = weights.product_biases[first_bias : first_bias + columns]
    offset = weights.product_offsets[layer, which]
    product = Product(residual.shape[0], depth, inputs, weights.products, offset, bias, finish, out, residual)
    blocks = columns // COLUMNS
    mine = 0
    block = claim(counts, phase)
    while block < blocks:
        # Claimed now, so that its weights can be prefetched.
        after = claim(counts, phase)
        next_block = after if after < blocks else -1
        multiply_block(tiles, product, block, next_block, scratch)
        mine += 1
        block = after
    if mine:
        done(counts, phase, mine, blocks)
    wait(counts, phase, blocks)


@compiled
def _norm(worker: Worker, phase: Int, x: Array, first: Array, second: Array, eps: Float, out: Array) -> None:
    """This thread's rows of out = norm(x) by weights `first` [2, d].

    If `second` has two rows: of x = norm(x) and out = norm of that by `second`.
    """
    counts, row = worker.counts, worker.row
    rows = x.shape[0]
    items = (rows + _NORM_ROWS - 1) // _NORM_ROWS
    item = claim(counts, phase)
    while item < items:
        for r in range(item * _NORM_ROWS, min((item + 1) * _NORM_ROWS, rows)):
            read_row(x[r], row)
            normalise(row, first[0], first[1], eps)
            if second.shape[0] == 2:
                write_row(row, x[r])
                normalise(row, second[0], second[1], eps)
            put(row, out, r, 0)
        done(counts, phase, 1, items)
        item = claim(counts, phase)
    wait(counts, phase, items)


@compiled
def _attend(
    worker: Worker,
    phase: Int,
    qkv: Array,
    pools: KeyValuePools,
    weights: AttentionWeights,
    streams: Streams,
    out: Array,
) -> None:
    """This thread's (row, head) pairs of `attend_jobs`."""
    counts = worker.counts
    jobs = qkv.shape[0] * qkv.shape[3]
    group = 1 if jobs < _MANY_JOBS else _JOBS
    items = (jobs + group - 1) // group
    item = claim(counts, phase)
    while item < items:
        attend_jobs(item * group, min((item + 1) * group, jobs), qkv, pools, weights, streams, out)
        done(counts, phase, 1, items)
        item = claim(counts, phase)
    wait(counts, phase, items)


@compiled
def _convolve(
    worker: Worker,
    phase: Int,
    gates: Array,
    context: Array,
    slots: Array,
    weights: ConvolutionWeights,
    out: Array,
) -> None:
    """This thread's rows of `convolve_row`."""
    counts = worker.counts
    items = gates.shape[0]
    item = claim(counts, phase)
    while item < items:
        convolve_row(item, gates, context, slots, weights, out)
        done(counts, phase, 1, items)
        item = claim(counts, phase)
    wait(counts, phase, items)


@compiled
def _run_part(
    block_weights: Array,
    counts: Array,
    x: Array,
    weights: StackedWeights,
    pools: Pools,
    streams: Streams,
    buffers: Buffers,
    tiles: TileUnit,
) -> None:
    """One thread's part of `run_layers`; `block_weights` is its scratch memory."""
    hidden, wide = buffers.hidden, buffers.wide
    qkv, gates = buffers.qkv, buffers.gates
    norms, eps = weights.norms, weights.eps
    layers = norms.shape[0]
    scratch = BlockScratch(np.empty(SUMS, np.float32), block_weights)
    worker = Worker(counts, scratch, np.empty(x.shape[1], np.float32), tiles)
    heads, d_head = weights.attention_biases.shape[2], weights.attention_biases.shape[3]
    size = streams.slots.shape[0]
    chunk = x.shape[0] // size
    split = qkv.reshape((size, chunk, 3, heads, d_head))
    gated = gates.reshape((size, chunk, gates.shape[1]))
    none = norms[0, 0, :0]
    start_tiles(tiles)
    _norm(worker, layers * _PHASES, x, norms[0, NormIndex.NORM_FF1], none, eps, hidden)
    for n in range(layers):
        p, norm = n * _PHASES, norms[n]
        _product(worker, p + Phase.FF1_UP, hidden, weights, n, ProductIndex.FF1_UP, Finish.SWISH, wide, x)
        _product(worker, p + Phase.FF1_DOWN, wide, weights, n, ProductIndex.FF1_DOWN, Finish.ADD, hidden, x)
        _norm(worker, p + Phase.NORM_ATT, x, norm[NormIndex.NORM_ATT], none, eps, hidden)
        _product(worker, p + Phase.QKV, hidden, weights, n, ProductIndex.QKV, Finish.STORE, qkv, x)
        biases = weights.attention_biases[n]
        _attend(
            worker, p + Phase.ATTEND, split, KeyValuePools(pools.keys[n], pools.values[n]),
            AttentionWeights(weights.positions[n], biases[0], biases[1]), streams, hidden,
        )  # fmt: skip
        _product(worker, p + Phase.ATT_OUT, hidden, weights, n, ProductIndex.ATT_OUT, Finish.ADD, hidden, x)
        _norm(worker, p + Phase.NORM_CONV, x, norm[NormIndex.NORM_CONV], none, eps, hidden)
        _product(worker, p + Phase.CONV_IN, hidden, weights, n, ProductIndex.CONV_IN, Finish.STORE, gates, x)
        inner = norm[NormIndex.CONV_NORM]
        _convolve(
            worker, p + Phase.CONVOLVE, gated, pools.context[n], streams.slots,
            ConvolutionWeights(weights.conv_taps[n], weights.conv_biases[n], inner[0], inner[1], eps), hidden,
        )  # fmt: skip
        _product(worker, p + Phase.CONV_OUT, hidden, weights, n, ProductIndex.CONV_OUT, Finish.ADD, hidden, x)
        _norm(worker, p + Phase.NORM_FF2, x, norm[NormIndex.NORM_FF2], none, eps, hidden)
        _product(worker, p + Phase.FF2_UP, hidden, weights, n, ProductIndex.FF2_UP, Finish.SWISH, wide, x)
        _product(worker, p + Phase.FF2_DOWN, wide, weights, n, ProductIndex.FF2_DOWN, Finish.ADD, hidden, x)
        after = norms[(n + 1) % layers, NormIndex.NORM_FF1]
        _norm(worker, p + Phase.NORM_OUT, x, norm[NormIndex.NORM_OUT], after, eps, hidden)
    stop_tiles(tiles)


@compiled(parallel=True)
def run_layers(
    threads: Int,
    counts: Array,
    x: Array,
    weights: StackedWeights,
    pools: Pools,
    streams: Streams,
    buffers: Buffers,
    tiles: TileUnit,
) -> None:
    """All layers, in place on the residual stream.

    Args:
        threads: how many to use.
        counts: from `barrier.counters`, zero, one for each of `phases`.
        x: float32 [rows, d].
        weights: of all layers.
        pools: of all layers, brought up to date.
        streams: of the B rows of the batch; rows = B x chunk.
        buffers: scratch, for so many rows and threads.
        tiles: the unit for products on tiles.
    """
    for thread in prange(threads):
        _run_part(buffers.block_weights[thread], counts, x, weights, pools, streams, buffers, tiles)

"""Chunked attention with relative positions, straight on the pools of keys and values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from asr_service.model.cpu_encoder.compiling import Array, Int, compiled
from asr_service.model.cpu_encoder.isa.memory import CACHE_LINE, prefetch_element
from asr_service.model.cpu_encoder.kernels.rows import as_float, exponential, put, read_row

# What a score is where nothing may be looked at, and what all scores are above.
_HIDDEN, _BELOW_ALL = np.float32(-1.0e30), np.float32(-3.0e38)


class KeyValuePools(NamedTuple):
    """Keys and values of one layer, all slots.

    Attributes:
        keys: [slots, heads, d, width], transposed so that one number of all keys lies together. The first places of a
            row are the ring: one chunk more than attention looks back, so that the new chunk has its own. The rest, up
            to a multiple of 32, stays zero: whole vectors are computed and the surplus is not looked at.
        values: [slots, heads, rows, d], the ring's places and zero rows up to a multiple of 4.
    """

    keys: Array
    values: Array


class AttentionWeights(NamedTuple):
    """Of one layer.

    Attributes:
        positions: float32 [heads, d, distances], column 0 for distance -(chunk - 1), padded to a multiple of 32.
        bias_u, bias_v: float32 [heads, d].
    """

    positions: Array
    bias_u: Array
    bias_v: Array


class Streams(NamedTuple):
    """Whose chunks the rows of a step are.

    Attributes:
        slots: int64 [B].
        steps: full steps each stream took before, int64 [B].
        real: int64 [B], frames of the chunk that are real: later ones are not seen.
        ring: chunks the ring of keys and values holds.
    """

    slots: Array
    steps: Array
    real: Array
    ring: Int


@compiled(parallel=True)
def attend(
    qkv: Array,
    keys: Array,
    values: Array,
    positions: Array,
    bias_u: Array,
    bias_v: Array,
    slots: Array,
    steps: Array,
    real: Array,
    ring: Int,
    threads: Int,
    out: Array,
) -> None:
    """`attend_jobs` of all jobs, in so many parts.

    Python calls this for each layer, and Numba takes microseconds to look through a NamedTuple of Python's: so what is
    in `KeyValuePools`, `AttentionWeights` and `Streams` is given one by one.
    """
    pools = KeyValuePools(keys, values)
    weights = AttentionWeights(positions, bias_u, bias_v)
    streams = Streams(slots, steps, real, ring)
    jobs = qkv.shape[0] * qkv.shape[3]
    for part in prange(threads):
        first, last = part * jobs // threads, (part + 1) * jobs // threads
        attend_jobs(first, last, qkv, pools, weights, streams, out)


@compiled
def attend_jobs(
    first: Int,
    last: Int,
    qkv: Array,
    pools: KeyValuePools,
    weights: AttentionWeights,
    streams: Streams,
    out: Array,
) -> None:
    """Attention of some (row, head) pairs.

    Args:
        first, last: which pairs.
        qkv: [B, chunk, 3, heads, d]; queries are scaled already. d is a multiple of 4.
        pools: of the layer, brought up to date.
        weights: of the layer.
        streams: of the rows.
        out: [B x chunk, at least heads x d], or three such planes: see `put`.
    """
    keys, values = pools.keys, pools.values
    positions, bias_u, bias_v = weights.positions, weights.bias_u, weights.bias_v
    slots, steps, real, ring = streams.slots, streams.steps, streams.real, streams.ring
    size, chunk, _, heads, width = qkv.shape
    places = keys.shape[3]
    rows = values.shape[2]
    distances = positions.shape[2]
    flat_keys, flat_values = keys.reshape(-1), values.reshape(-1)
    line = CACHE_LINE // keys.itemsize
    # A (slot, head) pair's keys and values lie together each, but the processor cannot guess the next pair's place.
    keys_block, values_block = width * places, rows * width
    query = np.empty((chunk, width), np.float32)
    biased = np.empty((chunk, width), np.float32)
    scores = np.empty((chunk, places), np.float32)
    by_distance = np.empty((chunk, distances), np.float32)
    scratch = np.empty(places, np.float32)
    mixed = np.empty((chunk, width), np.float32)
    r0 = np.empty(places, np.float32)
    r1 = np.empty(places, np.float32)
    r2 = np.empty(places, np.float32)
    r3 = np.empty(places, np.float32)
    v0 = np.empty(width, np.float32)
    v1 = np.empty(width, np.float32)
    v2 = np.empty(width, np.float32)
    v3 = np.empty(width, np.float32)
    for job in range(first, last):
        b = job // heads
        h = job % heads
        slot = slots[b]
        write = steps[b] % ring
        # Chunks written so far lie together at the front until the ring is full.
        count = min(steps[b] + 1, ring) * chunk
        for i in range(chunk):
            place = write * chunk + i
            # The products' type is the pool's: bits are copied as they are.
            for d in range(width):
                keys[slot, h, d, place] = qkv[b, i, 1, h, d]
            for d in range(width):
                values[slot, h, place, d] = qkv[b, i, 2, h, d]
            read_row(qkv[b, i, 0, h], query[i])
            for d in range(width):
                biased[i, d] = query[i, d] + bias_v[h, d]
                query[i, d] = query[i, d] + bias_u[h, d]
            for j in range(places):
                scores[i, j] = np.float32(0.0)
            for j in range(distances):
                by_distance[i, j] = np.float32(0.0)
        next_job = min(job + 1, size * heads - 1)
        next_pair = slots[next_job // heads] * heads + next_job % heads
        for d in range(0, width, 4):
            for j in range(
                next_pair * keys_block + d * places, next_pair * keys_block + (d + 4) * places, line
            ):
                prefetch_element(flat_keys, j)
            k0 = as_float(keys[slot, h, d], r0)
            k1 = as_float(keys[slot, h, d + 1], r1)
            k2 = as_float(keys[slot, h, d + 2], r2)
            k3 = as_float(keys[slot, h, d + 3], r3)
            for i in range(chunk):
                a0, a1, a2, a3 = query[i, d], query[i, d + 1], query[i, d + 2], query[i, d + 3]
                row = scores[i]
                for j in range(places):
                    row[j] += (a0 * k0[j] + a1 * k1[j]) + (a2 * k2[j] + a3 * k3[j])
                a0, a1, a2, a3 = biased[i, d], biased[i, d + 1], biased[i, d + 2], biased[i, d + 3]
                row = by_distance[i]
                p0, p1, p2, p3 = (
                    positions[h, d],
                    positions[h, d + 1],
                    positions[h, d + 2],
                    positions[h, d + 3],
                )
                for j in range(distances):
                    row[j] += (a0 * p0[j] + a1 * p1[j]) + (a2 * p2[j] + a3 * p3[j])
        for i in range(chunk):
            row = scores[i]
            for c in range(count // chunk):
                age = (write - c) % ring
                # Column of the distance to the chunk's first frame; it falls by one per frame.
                column = i + age * chunk + chunk - 1
                for f in range(chunk):
                    row[c * chunk + f] += by_distance[i, column - f]
            for j in range(real[b], chunk):
                row[write * chunk + j] = _HIDDEN
            top = _BELOW_ALL
            for j in range(count):
                top = max(top, row[j])
            for j in range(places):
                row[j] -= top
            exponential(row, scratch, places)
            for j in range(count, places):
                row[j] = np.float32(0.0)
            total = np.float32(0.0)
            for j in range(places):
                total += row[j]
            scale = np.float32(1.0) / total
            for j in range(places):
                row[j] *= scale
            for d in range(width):
                mixed[i, d] = np.float32(0.0)
        for j in range(0, min(rows, count + 3), 4):
            for d in range(
                next_pair * values_block + j * width, next_pair * values_block + (j + 4) * width, line
            ):
                prefetch_element(flat_values, d)
            w0 = as_float(values[slot, h, j], v0)
            w1 = as_float(values[slot, h, j + 1], v1)
            w2 = as_float(values[slot, h, j + 2], v2)
            w3 = as_float(values[slot, h, j + 3], v3)
            for i in range(chunk):
                a0, a1, a2, a3 = scores[i, j], scores[i, j + 1], scores[i, j + 2], scores[i, j + 3]
                row = mixed[i]
                for d in range(width):
                    row[d] += (a0 * w0[d] + a1 * w1[d]) + (a2 * w2[d] + a3 * w3[d])
        for i in range(chunk):
            put(mixed[i], out, b * chunk + i, h * width)

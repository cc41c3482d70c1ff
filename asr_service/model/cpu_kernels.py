"""What lies between the matrix products of a Conformer step on a CPU, fused, in compiled loops.

A step of a few frames is hundreds of small tensor operations whose results are read once and thrown away. Each function
here does in one pass over memory what torch does in five to ten, straight on the pools, so that caches are neither
gathered nor copied. Numba compiles them at first use and keeps the machine code on disk.

Arrays are float32, or uint16 where they hold the upper half of a float32 (bfloat16); arithmetic is float32 throughout.
Each function is parallel over rows or over (row, head) pairs, which share nothing they write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

Array = np.ndarray[Any, Any]

# Sums may be reordered and products fused, but NaN and infinity keep their meaning.
_LOOSE = {"reassoc", "contract", "nsz", "arcp"}
_ROUND = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_HALF_WORD = np.uint32(16)


@njit(fastmath=_LOOSE, nogil=True, cache=True, inline="never")
def load(source, target):  # type: ignore[no-untyped-def]
    """Copies a row to float32."""
    if source.itemsize == 2:
        bits = target.view(np.uint32)
        for i in range(source.shape[0]):
            bits[i] = np.uint32(source[i]) << _HALF_WORD
    else:
        for i in range(source.shape[0]):
            target[i] = np.float32(source[i])


@intrinsic
def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Asks for the cache line that holds array[index], array being one-dimensional and contiguous."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte = ir.IntType(8).as_pointer()
        word = ir.IntType(32)
        address = builder.bitcast(builder.gep(memory.data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # Read access, keep in all cache levels but the first, data.
        builder.call(function, [address, word(0), word(2), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _row(source: Array, buffer: Array) -> Array:
    """The row itself if it is float32, else its values in the buffer. Decided while compiling."""
    raise AssertionError("only compiled code calls this")


@overload(_row, inline="always", jit_options={"fastmath": _LOOSE})
def _row_overload(source, buffer):  # type: ignore[no-untyped-def]
    if source.dtype == types.float32:
        return lambda source, buffer: source

    def widen(source, buffer):  # type: ignore[no-untyped-def]
        bits = buffer.view(np.uint32)
        for i in range(buffer.shape[0]):
            bits[i] = np.uint32(source[i]) << _HALF_WORD
        return buffer

    return widen


@njit(fastmath=_LOOSE, nogil=True, cache=True, inline="never")
def store(source, target):  # type: ignore[no-untyped-def]
    """Copies a float32 row to the target's type, rounding to nearest even."""
    if target.itemsize == 2:
        bits = source.view(np.uint32)
        for i in range(target.shape[0]):
            b = bits[i]
            target[i] = np.uint16((b + _ROUND + ((b >> _HALF_WORD) & _ONE)) >> _HALF_WORD)
    else:
        for i in range(target.shape[0]):
            target[i] = source[i]


@njit(fastmath={"contract"}, nogil=True, cache=True, inline="never")
def exponential(row, scratch, count):  # type: ignore[no-untyped-def]
    """e to the power of `count` values, in place, to about 2 units in the last place (after Cephes' expf).

    `scratch` is float32 of the same length.
    """
    power = scratch.view(np.int32)
    for i in range(count):
        x = min(max(row[i], np.float32(-87.0)), np.float32(88.0))
        n = np.floor(x * np.float32(1.44269504088896341) + np.float32(0.5))
        f = x - n * np.float32(0.693359375)
        f = f - n * np.float32(-2.12194440e-4)
        y = np.float32(1.9875691500e-4)
        y = y * f + np.float32(1.3981999507e-3)
        y = y * f + np.float32(8.3334519073e-3)
        y = y * f + np.float32(4.1665795894e-2)
        y = y * f + np.float32(1.6666665459e-1)
        y = y * f + np.float32(5.0000001201e-1)
        row[i] = y * f * f + f + np.float32(1.0)
        power[i] = (np.int32(n) + np.int32(127)) << np.int32(23)
    for i in range(count):
        row[i] = row[i] * scratch[i]


@njit(fastmath=_LOOSE, nogil=True, cache=True, inline="never")
def normalise(row, weight, bias, eps):  # type: ignore[no-untyped-def]
    """Layer normalisation of a row in place."""
    n = row.shape[0]
    total = np.float32(0.0)
    for i in range(n):
        total += row[i]
    mean = total / np.float32(n)
    squares = np.float32(0.0)
    for i in range(n):
        d = row[i] - mean
        squares += d * d
    scale = np.float32(1.0) / np.sqrt(squares / np.float32(n) + eps)
    for i in range(n):
        row[i] = (row[i] - mean) * scale * weight[i] + bias[i]


@njit(fastmath=_LOOSE, nogil=True, cache=True, inline="never")
def swish(row, scratch, scratch2):  # type: ignore[no-untyped-def]
    """x * sigmoid(x) of a row in place."""
    n = row.shape[0]
    for i in range(n):
        scratch[i] = -row[i]
    exponential(scratch, scratch2, n)
    for i in range(n):
        row[i] = row[i] / (np.float32(1.0) + scratch[i])


@njit(parallel=True, fastmath=_LOOSE, nogil=True, cache=True)
def norm(x, weight, bias, eps, out):  # type: ignore[no-untyped-def]
    """out = norm(x); x float32 [n, d], out [n, d]."""
    for r in prange(x.shape[0]):
        row = np.empty(x.shape[1], np.float32)
        load(x[r], row)
        normalise(row, weight, bias, eps)
        store(row, out[r])


@njit(parallel=True, fastmath=_LOOSE, nogil=True, cache=True)
def add_norm(x, delta, weight, bias, eps, out):  # type: ignore[no-untyped-def]
    """x += delta; out = norm(x). All [n, d], x float32."""
    for r in prange(x.shape[0]):
        row = np.empty(x.shape[1], np.float32)
        load(delta[r], row)
        for i in range(row.shape[0]):
            row[i] += x[r, i]
            x[r, i] = row[i]
        normalise(row, weight, bias, eps)
        store(row, out[r])


@njit(parallel=True, fastmath=_LOOSE, nogil=True, cache=True)
def add_norm_norm(x, delta, weight, bias, eps, next_weight, next_bias, out):  # type: ignore[no-untyped-def]
    """x = norm(x + delta), the end of a layer; out = norm of that by the next layer's first weights."""
    for r in prange(x.shape[0]):
        row = np.empty(x.shape[1], np.float32)
        load(delta[r], row)
        for i in range(row.shape[0]):
            row[i] += x[r, i]
        normalise(row, weight, bias, eps)
        for i in range(row.shape[0]):
            x[r, i] = row[i]
        normalise(row, next_weight, next_bias, eps)
        store(row, out[r])


@njit(parallel=True, fastmath=_LOOSE, nogil=True, cache=True)
def swish_rows(x):  # type: ignore[no-untyped-def]
    """x = x * sigmoid(x), [n, d] in place."""
    for r in prange(x.shape[0]):
        row = np.empty(x.shape[1], np.float32)
        load(x[r], row)
        swish(row, np.empty(x.shape[1], np.float32), np.empty(x.shape[1], np.float32))
        store(row, x[r])


@njit(parallel=True, fastmath=_LOOSE, nogil=True, cache=True)
def attend(qkv, keys, values, positions, bias_u, bias_v, slots, steps, real, ring, threads, out):  # type: ignore[no-untyped-def]
    """Chunked attention with relative positions over a ring of chunks, straight on the pools.

    Args:
        qkv: [B, chunk, 3, heads, d]; queries are scaled already. d is a multiple of 4.
        keys: pool [slots, heads, d, width], transposed so that one number of all keys lies together. The first
            places of a row are the ring: one chunk more than attention looks back, so that the new chunk has its own.
            The rest, up to a multiple of 32, stays zero: whole vectors are computed and the surplus is not looked at.
        values: pool [slots, heads, rows, d], the ring's places and zero rows up to a multiple of 4.
        positions: float32 [heads, d, distances], column 0 for distance -(chunk - 1), padded to a multiple of 32.
        bias_u, bias_v: float32 [heads, d].
        slots, steps: int64 [B].
        real: int64 [B], frames of the chunk that are real: later ones are not seen.
        ring: chunks the ring holds.
        threads: how many parts to split the work into.
        out: [B, chunk, heads, d].
    """
    size, chunk, _, heads, width = qkv.shape
    places = keys.shape[3]
    rows = values.shape[2]
    distances = positions.shape[2]
    flat_keys, flat_values = keys.reshape(-1), values.reshape(-1)
    line = 64 // keys.itemsize
    # A (slot, head) pair's keys and values lie together each, but the processor cannot guess the next pair's place.
    keys_block, values_block = width * places, rows * width
    for part in prange(threads):
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
        for job in range(part * size * heads // threads, (part + 1) * size * heads // threads):
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
                load(qkv[b, i, 0, h], query[i])
                for d in range(width):
                    biased[i, d] = query[i, d] + bias_v[h, d]
                    query[i, d] = query[i, d] + bias_u[h, d]
                for j in range(places):
                    scores[i, j] = np.float32(0.0)
                for j in range(distances):
                    by_distance[i, j] = np.float32(0.0)
            coming = min(job + 1, size * heads - 1)
            coming = slots[coming // heads] * heads + coming % heads
            for d in range(0, width, 4):
                for j in range(
                    coming * keys_block + d * places, coming * keys_block + (d + 4) * places, line
                ):
                    _prefetch(flat_keys, j)
                k0 = _row(keys[slot, h, d], r0)
                k1 = _row(keys[slot, h, d + 1], r1)
                k2 = _row(keys[slot, h, d + 2], r2)
                k3 = _row(keys[slot, h, d + 3], r3)
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
                    row[write * chunk + j] = np.float32(-1.0e30)
                top = np.float32(-3.0e38)
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
                    coming * values_block + j * width, coming * values_block + (j + 4) * width, line
                ):
                    _prefetch(flat_values, d)
                w0 = _row(values[slot, h, j], v0)
                w1 = _row(values[slot, h, j + 1], v1)
                w2 = _row(values[slot, h, j + 2], v2)
                w3 = _row(values[slot, h, j + 3], v3)
                for i in range(chunk):
                    a0, a1, a2, a3 = scores[i, j], scores[i, j + 1], scores[i, j + 2], scores[i, j + 3]
                    row = mixed[i]
                    for d in range(width):
                        row[d] += (a0 * w0[d] + a1 * w1[d]) + (a2 * w2[d] + a3 * w3[d])
            for i in range(chunk):
                store(mixed[i], out[b, i, h])


@njit(parallel=True, fastmath=_LOOSE, nogil=True, cache=True)
def convolve(gates, context, slots, weight, bias, norm_weight, norm_bias, eps, out):  # type: ignore[no-untyped-def]
    """Gated linear unit, causal depthwise convolution, layer normalisation, swish.

    Args:
        gates: [B, chunk, 2 d].
        context: pool [slots, kernel - 1, d], brought up to date.
        slots: int64 [B].
        weight: float32 [kernel, d].
        bias, norm_weight, norm_bias: float32 [d].
        eps: of the normalisation.
        out: [B, chunk, d].
    """
    size, chunk, twice = gates.shape
    width = twice // 2
    kernel = weight.shape[0]
    for b in prange(size):
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
            store(row, out[b, t])
        for k in range(kernel - 1):
            store(frames[chunk + k], context[slot, k])


@njit(parallel=True, fastmath=_LOOSE, nogil=True, cache=True)
def first_stages(mel, memory, memory2, slots, low, high, weight, bias, weight2, bias2, out):  # type: ignore[no-untyped-def]
    """First convolution and ReLU, then the depthwise part of the second, of the subsampling.

    Args:
        mel: float32 [B, frames, mels]; frames outside [low, high) count as zero.
        memory: float32 pool [slots, mels], the last mel frame.
        memory2: pool [slots, width1, channels], the first layer's last output frame.
        slots: int64 [B].
        low, high: int64 [2, B], real frames of the input and of the first layer's output.
        weight: float32 [3, 3, channels] of the first layer.
        bias: float32 [channels].
        weight2, bias2: the same for the depthwise convolution.
        out: [B, frames / 4, width2, channels].
    """
    size, frames, mels = mel.shape
    channels = weight.shape[2]
    width = mels // 2 + 1
    width2 = width // 2 + 1
    for b in prange(size):
        slot = slots[b]
        # Two columns of padding on the left, one on the right.
        padded = np.zeros((frames + 1, mels + 3), np.float32)
        for m in range(mels):
            padded[0, m + 2] = memory[slot, m]
            for t in range(low[0, b], high[0, b]):
                padded[t + 1, m + 2] = mel[b, t, m]
            memory[slot, m] = padded[frames, m + 2]
        first = np.zeros((frames // 2 + 1, width + 3, channels), np.float32)
        for w in range(width):
            load(memory2[slot, w], first[0, w + 2])
        for t in range(low[1, b], high[1, b]):
            for w in range(width):
                row = first[t + 1, w + 2]
                for c in range(channels):
                    row[c] = bias[c]
                for i in range(3):
                    for j in range(3):
                        a = padded[2 * t + i, 2 * w + j]
                        for c in range(channels):
                            row[c] += a * weight[i, j, c]
                for c in range(channels):
                    row[c] = max(row[c], np.float32(0.0))
        for w in range(width):
            store(first[frames // 2, w + 2], memory2[slot, w])
        total = np.empty(channels, np.float32)
        for t in range(frames // 4):
            for w in range(width2):
                for c in range(channels):
                    total[c] = bias2[c]
                for i in range(3):
                    for j in range(3):
                        for c in range(channels):
                            total[c] += weight2[i, j, c] * first[2 * t + i, 2 * w + j, c]
                store(total, out[b, t, w])


@njit(parallel=True, fastmath=_LOOSE, nogil=True, cache=True)
def depthwise(x, memory, slots, low, high, weight, bias, out):  # type: ignore[no-untyped-def]
    """ReLU of the layer before, then the depthwise convolution of stride 2 of a later subsampling layer.

    Args:
        x: [B, frames, width, channels] before the ReLU; frames outside [low, high) count as zero.
        memory: pool [slots, width, channels], the last input frame.
        slots, low, high: int64 [B].
        weight: float32 [3, 3, channels].
        bias: float32 [channels].
        out: [B, frames / 2, width / 2 + 1, channels].
    """
    size, frames, width, channels = x.shape
    width2 = width // 2 + 1
    for b in prange(size):
        slot = slots[b]
        padded = np.zeros((frames + 1, width + 3, channels), np.float32)
        for w in range(width):
            load(memory[slot, w], padded[0, w + 2])
            for t in range(low[b], high[b]):
                row = padded[t + 1, w + 2]
                load(x[b, t, w], row)
                for c in range(channels):
                    row[c] = max(row[c], np.float32(0.0))
            store(padded[frames, w + 2], memory[slot, w])
        total = np.empty(channels, np.float32)
        for t in range(frames // 2):
            for w in range(width2):
                for c in range(channels):
                    total[c] = bias[c]
                for i in range(3):
                    for j in range(3):
                        for c in range(channels):
                            total[c] += weight[i, j, c] * padded[2 * t + i, 2 * w + j, c]
                store(total, out[b, t, w])

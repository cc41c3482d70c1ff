"""What the compiled layers of a step work with: weights of all layers in the order of their use, and scratch memory.

The orders here are the only ones: `layers.py` finds weights by the members of these enumerations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.cpu_encoder.compiling import Array, Float
from asr_service.model.cpu_encoder.isa.tiles import TileUnit
from asr_service.model.cpu_encoder.isa.vectors import COLUMNS
from asr_service.model.cpu_encoder.kernels.gemm import InputLayout
from asr_service.model.cpu_encoder.kernels.gemm_choice import FEW_ROWS, choose_gemm
from asr_service.model.weights import Affine, LayerWeights, Linear

ROW_MULTIPLE = 32
"""Rows of scratch memory are a multiple of this: products on tiles read whole tiles."""
DISTANCE_MULTIPLE = 32
"""Columns of position tables and places of keys are a multiple of this: loops over them are whole vectors."""
VALUE_MULTIPLE = 4
"""Rows of values are a multiple of this: attention takes four at a time."""


class ProductIndex(IntEnum):
    """Products of a layer in the order of their use, named as in `LayerWeights`."""

    FF1_UP = 0
    FF1_DOWN = 1
    QKV = 2
    ATT_OUT = 3
    CONV_IN = 4
    CONV_OUT = 5
    FF2_UP = 6
    FF2_DOWN = 7


class NormIndex(IntEnum):
    """Normalisations of a layer in the order of their use, named as in `LayerWeights`."""

    NORM_FF1 = 0
    NORM_ATT = 1
    NORM_CONV = 2
    CONV_NORM = 3
    NORM_FF2 = 4
    NORM_OUT = 5


class StackedWeights(NamedTuple):
    """Weights of all layers.

    Attributes:
        products: of all layers and products, flat, each packed for its kernel; in the order of use.
        product_offsets: where each begins, int64 [layers, products].
        product_shapes: (inputs, columns) of each, int64 [products, 2].
        product_biases: float32, flat; zeros that all products without a bias share.
        bias_offsets: where each begins, int64 [layers, products].
        norms: weights and biases float32 [layers, norms, 2, d].
        conv_taps: float32 [layers, kernel, d].
        conv_biases: float32 [layers, d].
        positions: float32 [layers, heads, d_head, distances].
        attention_biases: for queries against keys, and against positions, float32 [layers, 2, heads, d_head].
        eps: of all normalisations.
    """

    products: Array
    product_offsets: Array
    product_shapes: Array
    product_biases: Array
    bias_offsets: Array
    norms: Array
    conv_taps: Array
    conv_biases: Array
    positions: Array
    attention_biases: Array
    eps: Float


class Buffers(NamedTuple):
    """Scratch memory of a step.

    Attributes:
        hidden: inputs of products [rows up to a multiple of 32, at least d], or its three parts [3, ...].
        wide: inputs of the feed-forward's second product, [the same rows, at least ff], or its three parts.
        qkv: in the pools' type [rows, 3 d].
        gates: in the pools' type [rows, 2 d].
        block_weights: of each thread, uint8 [threads, at least `scratch_bytes`].
    """

    hidden: Array
    wide: Array
    qkv: Array
    gates: Array
    block_weights: Array


def array(tensor: Tensor) -> Array:
    """The tensor's memory as an array; bfloat16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def pool(*shape: int, dtype: torch.dtype) -> Tensor:
    """Zeros for the state of all slots. The system gives memory when it is first written to: gigabytes take a second.

    Raises:
        MemoryError: the machine has less memory than that.
    """
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def round_up(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


def fits(weights: LayerWeights) -> bool:
    """Whether all products of a layer are multiples of a block's columns in both directions."""
    return all(n % COLUMNS == 0 for product in _products(weights) for n in product.weight.shape)


def pad_positions(positions: Tensor) -> Tensor:
    """A position table [heads, d_head, distances] with zero columns up to `DISTANCE_MULTIPLE`."""
    return functional.pad(positions, (0, -positions.shape[-1] % DISTANCE_MULTIPLE))


def stack_weights(layers: Sequence[LayerWeights], dtype: torch.dtype, tiles: TileUnit) -> StackedWeights:
    """Packs the weights of all layers, whose widths are multiples of a block's columns (`fits`)."""
    products = [_products(layer) for layer in layers]
    sizes = [product.weight.numel() for product in products[0]]
    weights = _zeros(len(layers) * sum(sizes), dtype=dtype)
    offsets = np.cumsum([0, *sizes * len(layers)])[:-1].reshape(len(layers), -1)
    pack = choose_gemm(dtype, 1, tiles).pack
    for of_layer, places in zip(products, offsets, strict=True):
        for product, place in zip(of_layer, places, strict=True):
            packed = pack(product.weight)
            weights[place : place + packed.size] = packed
    biases, bias_offsets = _stack_biases(products)
    norms = [torch.stack([torch.stack([n.weight, n.bias]) for n in _norms(layer)]) for layer in layers]
    return StackedWeights(
        products=weights,
        product_offsets=offsets,
        product_shapes=np.array([p.weight.shape[::-1] for p in products[0]], dtype=np.int64),
        product_biases=biases,
        bias_offsets=bias_offsets,
        norms=array(torch.stack(norms)),
        conv_taps=array(torch.stack([w.conv.weight for w in layers])),
        conv_biases=array(torch.stack([w.conv.bias for w in layers])),
        positions=array(torch.stack([pad_positions(w.positions) for w in layers])),
        attention_biases=array(torch.stack([torch.stack([w.bias_u, w.bias_v]) for w in layers])),
        eps=np.float32(layers[0].eps),
    )


class ScratchMemory:
    """Scratch memory of steps, kept between them: fresh memory would cost a page fault each 4 kB."""

    def __init__(self, layer: LayerWeights, dtype: torch.dtype, tiles: TileUnit, threads: int) -> None:
        """For layers like the given one, products and pools in `dtype`, and at most so many threads."""
        self._dtype = dtype
        self._d_model, self._ff = layer.ff1_up.weight.shape[1], layer.ff1_up.weight.shape[0]
        # Which products it is depends on the rows: memory for either.
        depth = max(self._d_model, self._ff)
        gemms = [choose_gemm(dtype, rows, tiles) for rows in (FEW_ROWS, FEW_ROWS + 1)]
        block_bytes = max(gemm.scratch_bytes(depth) for gemm in gemms)
        self._block_weights = _zeros(threads, block_bytes, dtype=torch.uint8)
        self._memory: list[Tensor] = []

    def buffers(self, rows: int, threads: int, inputs: InputLayout) -> Buffers:
        """For a step of so many rows and threads and products that want such inputs; not cleared between steps."""
        padded = round_up(rows, ROW_MULTIPLE)
        # Off a power of two, so that the rows of a tile do not fall on one set of the cache.
        shapes: tuple[tuple[tuple[int, ...], torch.dtype], ...] = (
            ((*inputs.planes, padded, self._d_model + COLUMNS), inputs.dtype),
            ((*inputs.planes, padded, self._ff + COLUMNS), inputs.dtype),
            ((padded, 3 * self._d_model), self._dtype),
            ((padded, 2 * self._d_model), self._dtype),
        )
        needed = [math.prod(shape) * dtype.itemsize for shape, dtype in shapes]
        if not self._memory or any(m.numel() < n for m, n in zip(self._memory, needed, strict=True)):
            self._memory = [torch.zeros(n, dtype=torch.uint8) for n in needed]
        hidden, wide, qkv, gates = (
            array(memory[:size].view(dtype).view(shape))
            for memory, size, (shape, dtype) in zip(self._memory, needed, shapes, strict=True)
        )
        return Buffers(hidden, wide, qkv[:rows], gates[:rows], self._block_weights[:threads])


def _stack_biases(products: Sequence[Sequence[Linear]]) -> tuple[Array, Array]:
    """Lays out the biases of all products; those without one share zeros at the end."""
    found = [product.bias for of_layer in products for product in of_layer]
    sizes = [0 if bias is None else bias.numel() for bias in found]
    offsets = np.cumsum([0, *sizes])
    missing = np.array([bias is None for bias in found])
    zeros = max((len(product.weight) for of_layer in products for product in of_layer), default=0)
    parts = [bias for bias in found if bias is not None]
    stacked = torch.cat([*parts, torch.zeros(zeros if missing.any() else 0)])
    places = np.where(missing, offsets[-1], offsets[:-1])
    return array(stacked.contiguous()), places.reshape(len(products), -1)


def _products(weights: LayerWeights) -> list[Linear]:
    """In the order of `ProductIndex`."""
    return [getattr(weights, member.name.lower()) for member in ProductIndex]


def _norms(weights: LayerWeights) -> list[Affine]:
    """In the order of `NormIndex`."""
    return [getattr(weights, member.name.lower()) for member in NormIndex]


def _zeros(*shape: int, dtype: torch.dtype) -> Array:
    """Zeros that begin at a cache line, as torch's memory does: tiles then lie on whole lines."""
    return array(torch.zeros(shape, dtype=dtype))

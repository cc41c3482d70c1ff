"""What the compiled layers of a step work with: weights of all layers in the order of their use, and scratch memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.cpu_encoder.isa.amx import has_tiles, tile_config
from asr_service.model.cpu_encoder.kernels.barrier import counters
from asr_service.model.cpu_encoder.kernels.gemm_bf16_amx import pack
from asr_service.model.cpu_encoder.kernels.gemm_fp32_amx import PARTS_STEP, pack_float
from asr_service.model.cpu_encoder.kernels.rows import Array
from asr_service.model.cpu_encoder.layers import PHASES, run_layers
from asr_service.model.cpu_encoder.onednn_encoder import array
from asr_service.model.weights import Affine, LayerWeights

FEW_ROWS = 4
"""Most rows whose float32 products are computed on vectors where there are tiles; all of them where there are none."""


class LayerStack:
    """Prepared weights of all layers, and the scratch memory of a step."""

    def __init__(self, layers: Sequence[LayerWeights], dtype: torch.dtype) -> None:
        """Widths must be multiples of 32 (`fits`); bfloat16 needs `has_tiles()`."""
        first = layers[0]
        parts = [_products(layer) for layer in layers]
        self._bf16 = dtype == torch.bfloat16
        sizes = [product.weight.numel() for product in parts[0]]
        columns = [product.bias.numel() for product in parts[0]]
        weights = _room(len(layers) * sum(sizes), dtype=dtype)
        bases = np.cumsum([0, *sizes * len(layers)])[:-1].reshape(len(layers), -1)
        shifts = np.cumsum([0, *columns * len(layers)])[:-1].reshape(len(layers), -1)
        for layer, base in zip(parts, bases, strict=True):
            for product, place in zip(layer, base, strict=True):
                packed = pack(product.weight) if self._bf16 else pack_float(product.weight)
                weights[place : place + packed.size] = packed
        biases = torch.cat([product.bias for layer in parts for product in layer]).contiguous()
        shapes = np.array([p.weight.shape[::-1] for p in parts[0]], dtype=np.int64)
        self._products = (weights, bases, shapes, array(biases), shifts)
        norms = [
            [_pair(n) for n in (w.norm_ff1, w.norm_att, w.norm_conv, w.conv_norm, w.norm_ff2, w.norm_out)]
            for w in layers
        ]
        self._norms = array(torch.stack([torch.stack(n) for n in norms]))
        self._conv = (
            array(torch.stack([w.conv.weight for w in layers])),
            array(torch.stack([w.conv.bias for w in layers])),
        )
        self._attention_biases = array(torch.stack([torch.stack([w.bias_u, w.bias_v]) for w in layers]))
        self._tiles = has_tiles()
        self._config = tile_config()
        self._positions = array(
            torch.stack([functional.pad(w.positions, (0, -w.positions.shape[-1] % 32)) for w in layers])
        )
        self._eps = np.float32(first.eps)
        self._width, self._wide = first.ff1_up.weight.shape[1], first.ff1_up.weight.shape[0]
        widest = max(self._width, self._wide)
        self._parts = _room(int(numba.config.NUMBA_NUM_THREADS), widest // 32 * PARTS_STEP, dtype=torch.uint8)  # type: ignore[attr-defined]
        self._counts = counters(len(layers) * PHASES + 1)
        self._scratch: list[Tensor] = []

    def run(
        self, x: Array, pools: tuple[Array, Array, Array], slots: Array, steps: Array, real: Array, ring: int
    ) -> None:  # fmt: skip
        """All layers on the residual stream `x`, float32 [rows, d], in place; the rest as in `run_layers`."""
        threads = min(torch.get_num_threads(), int(numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        numba.set_num_threads(threads)
        self._counts[:] = 0
        small = (self._norms, *self._conv, self._positions, self._attention_biases)
        run_layers(
            threads, self._counts, x, *self._buffers(len(x)), self._parts[:threads], self._products, small, pools,
            slots, steps, real, ring, self._eps, self._config,
        )  # fmt: skip

    def _buffers(self, rows: int) -> tuple[Array, ...]:
        """Scratch of a step of so many rows, kept: fresh memory would cost a page fault each 4 kB."""
        padded = -(-rows // 32) * 32
        inner = outer = torch.bfloat16 if self._bf16 else torch.float32
        planes: tuple[int, ...] = ()
        if not self._bf16 and rows > FEW_ROWS and self._tiles:
            inner, planes = torch.bfloat16, (3,)
        # Off a power of two, so that the rows of a tile do not fall on one set of the cache.
        rooms = (
            ((*planes, padded, self._width + 32), inner),
            ((*planes, padded, self._wide + 32), inner),
            ((padded, 3 * self._width), outer),
            ((padded, 2 * self._width), outer),
        )
        needed = [math.prod(shape) * dtype.itemsize for shape, dtype in rooms]
        if not self._scratch or any(s.numel() < n for s, n in zip(self._scratch, needed, strict=True)):
            self._scratch = [torch.zeros(n, dtype=torch.uint8) for n in needed]
        h, wide, qkv, gates = (
            array(memory[:size].view(dtype).view(shape))
            for memory, size, (shape, dtype) in zip(self._scratch, needed, rooms, strict=True)
        )
        return h, wide, qkv[:rows], gates[:rows]


def _room(*shape: int, dtype: torch.dtype) -> Array:
    """Zeros that begin at a cache line, as torch's memory does: tiles then lie on whole lines."""
    return array(torch.zeros(shape, dtype=dtype))


def fits(weights: LayerWeights) -> bool:
    """Whether all products of a layer are multiples of 32 in both directions."""
    return all(n % 32 == 0 for product in _products(weights) for n in product.weight.shape)


def _products(w: LayerWeights) -> list[Affine]:
    """In the order of use."""
    return [w.ff1_up, w.ff1_down, w.qkv, w.att_out, w.conv_in, w.conv_out, w.ff2_up, w.ff2_down]


def _pair(weights: Affine) -> Tensor:
    return torch.stack([weights.weight, weights.bias])

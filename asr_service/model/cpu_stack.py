"""What the compiled layers of a step work with: weights of all layers in the order of their use, and scratch memory."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.cpu_layers import PHASES, run_layers
from asr_service.model.cpu_product import array
from asr_service.model.cpu_rows import Array
from asr_service.model.cpu_team import counters
from asr_service.model.cpu_tiles import pack, tile_config
from asr_service.model.weights import Affine, LayerWeights

DOT_ROWS = 4
"""Most rows for which float32 dot products pay."""


class LayerStack:
    """Prepared weights of all layers, and the scratch memory of a step."""

    def __init__(self, layers: Sequence[LayerWeights], dtype: torch.dtype) -> None:
        """`dtype` bfloat16 needs `has_tiles()`, and widths that are multiples of 32: see `fits`."""
        first = layers[0]
        parts = [_products(layer) for layer in layers]
        self._tiles = dtype == torch.bfloat16
        self._type = np.uint16 if self._tiles else np.float32
        sizes = [product.weight.numel() for product in parts[0]]
        columns = [product.bias.numel() for product in parts[0]]
        weights = np.empty(len(layers) * sum(sizes), dtype=self._type)
        bases = np.cumsum([0, *sizes * len(layers)])[:-1].reshape(len(layers), -1)
        shifts = np.cumsum([0, *columns * len(layers)])[:-1].reshape(len(layers), -1)
        for layer, base in zip(parts, bases, strict=True):
            for product, place in zip(layer, base, strict=True):
                packed = pack(product.weight) if self._tiles else array(product.weight).reshape(-1)
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
        self._config = tile_config() if self._tiles else np.zeros(0, dtype=np.uint8)
        self._positions = array(
            torch.stack([functional.pad(w.positions, (0, -w.positions.shape[-1] % 32)) for w in layers])
        )
        self._eps = np.float32(first.eps)
        self._width, self._wide = first.ff1_up.weight.shape[1], first.ff1_up.weight.shape[0]
        self._counts = counters(len(layers) * PHASES + 1)
        self._scratch: dict[int, tuple[Array, ...]] = {}

    def run(
        self, x: Array, pools: tuple[Array, Array, Array], slots: Array, steps: Array, real: Array, ring: int
    ) -> None:  # fmt: skip
        """All layers on the residual stream `x`, float32 [rows, d], in place; the rest as in `run_layers`."""
        threads = min(torch.get_num_threads(), int(numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        numba.set_num_threads(threads)
        self._counts[:] = 0
        small = (self._norms, *self._conv, self._positions, self._attention_biases)
        run_layers(
            threads, self._counts, x, *self._buffers(len(x)), self._products, small, pools, slots, steps, real, ring,
            self._eps, self._config,
        )  # fmt: skip

    def _buffers(self, rows: int) -> tuple[Array, ...]:
        """Scratch of a step of so many rows, kept: fresh memory would cost a page fault each 4 kB."""
        if rows not in self._scratch:
            if len(self._scratch) > 64:
                self._scratch.clear()
            padded = -(-rows // 32) * 32
            # Off a power of two, so that the rows of a tile do not fall on one set of the cache.
            shapes = (
                (padded, self._width + 32),
                (padded, self._wide + 32),
                (rows, 3 * self._width),
                (rows, 2 * self._width),
            )
            self._scratch[rows] = tuple(np.zeros(shape, dtype=self._type) for shape in shapes)
        return self._scratch[rows]


def fits(weights: LayerWeights) -> bool:
    """Whether all products of a layer are multiples of 32 in both directions."""
    return all(n % 32 == 0 for product in _products(weights) for n in product.weight.shape)


def _products(w: LayerWeights) -> list[Affine]:
    """In the order of use."""
    return [w.ff1_up, w.ff1_down, w.qkv, w.att_out, w.conv_in, w.conv_out, w.ff2_up, w.ff2_down]


def _pair(weights: Affine) -> Tensor:
    return torch.stack([weights.weight, weights.bias])

"""The Conformer layers as oneDNN's packed products with compiled loops between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asr_service.model.cpu_encoder.compiling import Array
from asr_service.model.cpu_encoder.kernels.attention import AttentionWeights, KeyValuePools, Streams, attend
from asr_service.model.cpu_encoder.kernels.convolution import ConvolutionWeights, convolve
from asr_service.model.cpu_encoder.kernels.norm import add_norm, add_norm_norm, norm
from asr_service.model.cpu_encoder.layers import Pools
from asr_service.model.cpu_encoder.packing import array, pad_positions
from asr_service.model.packed_product import PackedProduct
from asr_service.model.weights import Affine, LayerWeights, Linear


def product(weights: Linear, dtype: torch.dtype, after: str = "none") -> PackedProduct:
    """Makes the product by a layer's weights; `after` is "none" or "swish"."""
    return PackedProduct(weights.weight, weights.bias, dtype, after)


class _Layer:
    """One Conformer layer: products, and the small weights as arrays."""

    def __init__(self, weights: LayerWeights, dtype: torch.dtype) -> None:
        self.ff1_up = product(weights.ff1_up, dtype, "swish")
        self.ff1_down = product(weights.ff1_down, dtype)
        self.qkv = product(weights.qkv, dtype)
        self.att_out = product(weights.att_out, dtype)
        self.conv_in = product(weights.conv_in, dtype)
        self.conv_out = product(weights.conv_out, dtype)
        self.ff2_up = product(weights.ff2_up, dtype, "swish")
        self.ff2_down = product(weights.ff2_down, dtype)
        self.norm_ff1 = _arrays(weights.norm_ff1)
        self.norm_att = _arrays(weights.norm_att)
        self.norm_conv = _arrays(weights.norm_conv)
        self.norm_ff2 = _arrays(weights.norm_ff2)
        self.norm_out = _arrays(weights.norm_out)
        eps = np.float32(weights.eps)
        self.convolution = ConvolutionWeights(*_arrays(weights.conv), *_arrays(weights.conv_norm), eps)
        positions = array(pad_positions(weights.positions))
        self.attention = AttentionWeights(positions, array(weights.bias_u), array(weights.bias_v))


class OneDnnLayers:
    """Runs the layers for any widths and precision: eight products of the library and six loops each."""

    def __init__(self, layers: Sequence[LayerWeights], dtype: torch.dtype, pools: Pools) -> None:
        """Packs the weights."""
        first = layers[0]
        self._dtype = dtype
        self._pools = [KeyValuePools(*of_layer) for of_layer in zip(pools.keys, pools.values, strict=True)]
        self._contexts = list(pools.context)
        self._layers = [_Layer(layer, dtype) for layer in layers]
        self._heads, self._d_head = first.heads, first.d_head
        self._eps = np.float32(first.eps)

    def run(self, residual: Tensor, streams: Streams, threads: int) -> None:
        """All layers on the residual stream, fp32 [rows, d_model], in place."""
        x, eps = array(residual), self._eps
        slots, steps, real, ring = streams
        rows, size = len(x), len(slots)
        following = (*self._layers[1:], self._layers[0])
        hidden = torch.empty(residual.shape, dtype=self._dtype)
        h = array(hidden)
        norm(x, *self._layers[0].norm_ff1, eps, h)
        for layer, after, pools, context in zip(
            self._layers, following, self._pools, self._contexts, strict=True
        ):
            add_norm(x, array(layer.ff1_down(layer.ff1_up(hidden))), *layer.norm_att, eps, h)
            qkv = array(layer.qkv(hidden)).reshape(size, rows // size, 3, self._heads, self._d_head)
            attend(qkv, *pools, *layer.attention, slots, steps, real, ring, threads, h)
            add_norm(x, array(layer.att_out(hidden)), *layer.norm_conv, eps, h)
            gates = array(layer.conv_in(hidden)).reshape(size, rows // size, -1)
            convolve(gates, context, slots, *layer.convolution, h)
            add_norm(x, array(layer.conv_out(hidden)), *layer.norm_ff2, eps, h)
            down = array(layer.ff2_down(layer.ff2_up(hidden)))
            add_norm_norm(x, down, *layer.norm_out, eps, *after.norm_ff1, h)


def _arrays(weights: Affine) -> tuple[Array, Array]:
    return array(weights.weight), array(weights.bias)

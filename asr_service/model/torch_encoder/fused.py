"""A Conformer layer of products and Triton kernels: what runs on a GPU where Triton works."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.torch_encoder import kernels
from asr_service.model.weights import Affine, LayerWeights, Linear


def _pair(weights: Affine) -> tuple[Tensor, Tensor]:
    return weights.weight, weights.bias


class _Product:
    def __init__(self, weights: Linear, dtype: torch.dtype) -> None:
        self.weight = weights.weight.to(dtype)
        self.bias = None if weights.bias is None else weights.bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


def with_positions(weights: LayerWeights) -> Linear:
    """Joins to the product of queries, keys and values the one that scores the queries by distance.

    The score of a query by distance is a product of weights with the layer's input: (W_q x + b_q + v) p = (W_q' p) x +
    (b_q + v) p, for the vector p of each distance.
    """
    heads, d_head = weights.heads, weights.d_head
    width = heads * d_head
    query = weights.qkv.weight[:width].view(heads, d_head, -1).double()
    bias = weights.bias_v.double()
    if weights.qkv.bias is not None:
        bias = bias + weights.qkv.bias[:width].view(heads, d_head).double()
    positions = weights.positions.double()
    scores = torch.einsum("hdw,hdp->hpw", query, positions).flatten(0, 1).float()
    added = torch.einsum("hd,hdp->hp", bias, positions).flatten().float()
    own = weights.qkv.bias if weights.qkv.bias is not None else scores.new_zeros(3 * width)
    return Linear(torch.cat([weights.qkv.weight, scores]).contiguous(), torch.cat([own, added]))


class FusedLayer:
    """One Conformer layer; its state lies in the encoder's pools.

    Args:
        weights: of the layer.
        dtype: of products and pools.
    """

    def __init__(self, weights: LayerWeights, dtype: torch.dtype) -> None:
        self.eps, self.dtype = weights.eps, dtype
        self.norm_ff1 = _pair(weights.norm_ff1)
        self.ff1 = (_Product(weights.ff1_up, dtype), _Product(weights.ff1_down, dtype))
        self.norm_att = _pair(weights.norm_att)
        self.qkvp = _Product(with_positions(weights), dtype)
        self.bias_u = weights.bias_u
        self.att_out = _Product(weights.att_out, dtype)
        self.norm_conv = _pair(weights.norm_conv)
        self.conv_in, self.conv_out = _Product(weights.conv_in, dtype), _Product(weights.conv_out, dtype)
        self.taps, self.tap_bias = _pair(weights.conv)
        self.conv_norm = _pair(weights.conv_norm)
        self.norm_ff2 = _pair(weights.norm_ff2)
        self.ff2 = (_Product(weights.ff2_up, dtype), _Product(weights.ff2_down, dtype))
        self.norm_out = _pair(weights.norm_out)

    def start(self, x: Tensor) -> Tensor:
        """Returns the first layer's input, normalised, of the residual, fp32 [B * chunk, d_model]."""
        return kernels.add_norm(x, None, self.norm_ff1, None, self.eps, self.dtype)

    def step(
        self, x: Tensor, hidden: Tensor, keys: Tensor, values: Tensor, context: Tensor,
        rows: tuple[Tensor, Tensor, Tensor], chunk: int, following: FusedLayer | None,
    ) -> Tensor:  # fmt: skip
        """Runs the layer over one chunk of each row.

        Args:
            x: the residual, fp32 [B * chunk, d_model], changed in place.
            hidden: it, normalised for this layer: from `start` or the layer before.
            keys, values, context: this layer's pools.
            rows: int64 [B] each: slots, full steps before, real frames.
            chunk: frames of a chunk.
            following: the next layer; None for none.

        Returns:
            The residual normalised for the next layer; anything if there is none.
        """
        slots, steps, real = rows
        eps, dtype = self.eps, self.dtype
        up, down = self.ff1
        y = down(functional.silu(up(hidden), inplace=True))
        hidden = kernels.add_norm(x, y, self.norm_att, None, eps, dtype)
        y = self.att_out(
            kernels.attend(self.qkvp(hidden), keys, values, slots, steps, real, self.bias_u, chunk)
        )
        hidden = kernels.add_norm(x, y, self.norm_conv, None, eps, dtype)
        made = kernels.convolve(
            self.conv_in(hidden), context, slots, self.taps, self.tap_bias, self.conv_norm, eps, chunk
        )
        hidden = kernels.add_norm(x, self.conv_out(made), self.norm_ff2, None, eps, dtype)
        up, down = self.ff2
        y = down(functional.silu(up(hidden), inplace=True))
        then = following.norm_ff1 if following is not None else self.norm_out
        return kernels.add_norm(x, y, self.norm_out, then, eps, dtype)

"""The encoder step on a CPU: oneDNN's packed products, and compiled loops (`cpu_kernels.py`) between them.

A layer is eight products and six loops. Keys, values and contexts are read and written in their pools, so a step's
memory traffic is the weights once, each stream's cache once, and activations that stay in the processor's caches.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model import cpu_kernels as kernels
from asr_service.model.batch import Batch
from asr_service.model.plan import ChunkPlan
from asr_service.model.weights import Affine, EncoderWeights, LayerWeights, StageWeights, UnsupportedLayer

Array = np.ndarray[Any, Any]

# Rows that oneDNN lays the packed weights out for; other numbers of rows work with them too.
_PACK_ROWS = 64


def array(tensor: Tensor) -> Array:
    """The tensor's memory as an array; bfloat16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def _up(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


class _Product:
    """x @ weight.T + bias with packed weights, maybe followed by swish."""

    def __init__(self, weights: Affine, dtype: torch.dtype, after: str = "none") -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weights.weight.to(dtype), _PACK_ROWS)
        self._bias = weights.bias.to(dtype)
        self._after = after

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._after, [], "")
        return out


class _Layer:
    """One Conformer layer: products, and the small weights as arrays."""

    def __init__(self, weights: LayerWeights, dtype: torch.dtype) -> None:
        self.ff1_up = _Product(weights.ff1_up, dtype, "swish")
        self.ff1_down = _Product(weights.ff1_down, dtype)
        self.qkv = _Product(weights.qkv, dtype)
        self.att_out = _Product(weights.att_out, dtype)
        self.conv_in = _Product(weights.conv_in, dtype)
        self.conv_out = _Product(weights.conv_out, dtype)
        self.ff2_up = _Product(weights.ff2_up, dtype, "swish")
        self.ff2_down = _Product(weights.ff2_down, dtype)
        self.norm_ff1 = _arrays(weights.norm_ff1)
        self.norm_att = _arrays(weights.norm_att)
        self.norm_conv = _arrays(weights.norm_conv)
        self.norm_ff2 = _arrays(weights.norm_ff2)
        self.norm_out = _arrays(weights.norm_out)
        self.conv = (*_arrays(weights.conv), *_arrays(weights.conv_norm))
        distances = weights.positions.shape[-1]
        self.positions = array(functional.pad(weights.positions, (0, _up(distances, 32) - distances)))
        self.bias_u, self.bias_v = array(weights.bias_u), array(weights.bias_v)


def _arrays(weights: Affine) -> tuple[Array, Array]:
    return array(weights.weight), array(weights.bias)


class CpuEncoder:
    """Encoder step for CPUs, from prepared weights. Pools have one row per slot."""

    def __init__(self, weights: EncoderWeights, plan: ChunkPlan, slots: int, dtype: torch.dtype) -> None:
        """Allocates the pools for `slots` rows; `dtype` (fp32 or bf16) is that of products and pools.

        Raises:
            UnsupportedLayer: if the subsampling is not the depthwise-separable one.
        """
        self._plan = plan
        self._dtype = dtype
        self.subsampling = _Subsampling(weights, plan, slots, dtype)
        self._layers = [_Layer(layer, dtype) for layer in weights.layers]
        first = weights.layers[0]
        self._heads, self._d_head, self._d_model = first.heads, first.d_head, weights.d_model
        if first.d_head % 4:
            raise UnsupportedLayer("attention heads are not a multiple of 4 wide")
        self._eps = np.float32(first.eps)
        count = len(self._layers)
        # One chunk more than attention looks back, so that the new chunk has a place of its own.
        self._ring = self.ring_chunks + 1
        places = self._ring * plan.chunk_frames
        self._keys = torch.zeros(count, slots, first.heads, first.d_head, _up(places, 32), dtype=dtype)
        self._values = torch.zeros(count, slots, first.heads, _up(places, 4), first.d_head, dtype=dtype)
        kernel = first.conv.weight.shape[0]
        self._context = torch.zeros(count, slots, kernel - 1, weights.d_model, dtype=dtype)
        self._pools = [
            (array(k), array(v), array(c))
            for k, v, c in zip(self._keys, self._values, self._context, strict=True)
        ]

    @property
    def ring_chunks(self) -> int:
        """Chunks of the past that attention sees."""
        return self._plan.left_frames // self._plan.chunk_frames

    def step(self, batch: Batch, mel: Tensor) -> Tensor:
        """Encodes one chunk of each row.

        Args:
            batch: the step's batch.
            mel: fp32 [B, chunk_mels, mels].

        Returns:
            fp32 [B, chunk_frames, d_model]; frames that are not real hold anything finite.
        """
        size, chunk = len(batch.slots), self._plan.chunk_frames
        rows, eps = size * chunk, self._eps
        # Products and loops take turns on the same cores. Numba's number is the calling thread's own.
        threads = min(torch.get_num_threads(), int(numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        numba.set_num_threads(threads)
        slots, steps = array(batch.slots), array(batch.steps)
        real = np.full(size, chunk, dtype=np.int64)
        real[: batch.size] = batch.frames
        residual = self.subsampling.step(batch, mel).view(rows, self._d_model)
        x = array(residual)
        hidden = torch.empty(rows, self._d_model, dtype=self._dtype)
        h = array(hidden)
        mixed, mixed_shape = h.reshape(size, chunk, self._heads, self._d_head), (size, chunk, self._d_model)
        kernels.norm(x, *self._layers[0].norm_ff1, eps, h)
        for index, (layer, (keys, values, context)) in enumerate(zip(self._layers, self._pools, strict=True)):
            kernels.add_norm(x, array(layer.ff1_down(layer.ff1_up(hidden))), *layer.norm_att, eps, h)
            qkv = array(layer.qkv(hidden)).reshape(size, chunk, 3, self._heads, self._d_head)
            kernels.attend(
                qkv,
                keys,
                values,
                layer.positions,
                layer.bias_u,
                layer.bias_v,
                slots,
                steps,
                real,
                self._ring,
                threads,
                mixed,
            )
            kernels.add_norm(x, array(layer.att_out(hidden)), *layer.norm_conv, eps, h)
            gates = array(layer.conv_in(hidden)).reshape(size, chunk, -1)
            kernels.convolve(gates, context, slots, *layer.conv, eps, h.reshape(mixed_shape))
            kernels.add_norm(x, array(layer.conv_out(hidden)), *layer.norm_ff2, eps, h)
            after = self._layers[(index + 1) % len(self._layers)].norm_ff1
            kernels.add_norm_norm(
                x, array(layer.ff2_down(layer.ff2_up(hidden))), *layer.norm_out, eps, *after, h
            )
        return residual.view(size, chunk, self._d_model)

    def reset(self, slots: Tensor) -> None:
        """Forgets the past of the given slots, int64 [n]. Ring places need no clearing: age hides them."""
        self.subsampling.reset(slots)
        self._context[:, slots] = 0

    def clear(self, slots: Tensor) -> None:
        """Overwrites everything the given slots hold, after a step that made numbers that are not finite."""
        self.reset(slots)
        self._keys[:, slots] = 0
        self._values[:, slots] = 0

    def state_bytes(self) -> int:
        """Bytes of state per slot."""
        pools = (self._keys, self._values, self._context)
        return self.subsampling.state_bytes() + sum(p[:, 0].numel() * p.element_size() for p in pools)


class _Subsampling:
    """The depthwise-separable subsampling; see `subsampling.py` for what is remembered and why."""

    def __init__(self, weights: EncoderWeights, plan: ChunkPlan, slots: int, dtype: torch.dtype) -> None:
        first, *rest = weights.stages
        if first.groups != 1 or first.pointwise is not None or first.conv.weight.shape[1] != 1 or not rest:
            raise UnsupportedLayer("the first subsampling layer is not a plain convolution")
        if any(stage.pointwise is None or stage.groups != stage.conv.weight.shape[0] for stage in rest):
            raise UnsupportedLayer("later subsampling layers are not depthwise-separable")
        self._plan = plan
        self._dtype = dtype
        self._channels = first.conv.weight.shape[0]
        self._convs = [_taps(stage) for stage in weights.stages]
        self._products = [_Product(stage.pointwise, dtype) for stage in rest if stage.pointwise is not None]
        self._project = _Product(weights.project, dtype)
        self._widths = weights.widths
        self._mels = torch.zeros(slots, weights.widths[0])
        self._memory = [
            torch.zeros(slots, width, self._channels, dtype=dtype) for width in weights.widths[1:-1]
        ]

    def step(self, batch: Batch, mel: Tensor) -> Tensor:
        """fp32 [B, chunk_mels, mels] to fp32 [B, chunk_frames, d_model]."""
        size, frames = len(batch.slots), self._plan.chunk_mels
        slots = array(batch.slots)
        low, high = self._bounds(batch, size)
        first, second = self._convs[:2]
        memory = [array(m) for m in self._memory]
        x = torch.empty(size, frames // 4, self._widths[2], self._channels, dtype=self._dtype)
        kernels.first_stages(
            array(mel), array(self._mels), memory[0], slots, low[:2], high[:2], *first, *second, array(x)
        )
        x = self._products[0](x)
        for layer in range(2, len(self._convs)):
            out = torch.empty(
                size, frames >> (layer + 1), self._widths[layer + 1], self._channels, dtype=self._dtype
            )
            kernels.depthwise(
                array(x), memory[layer - 1], slots, low[layer], high[layer], *self._convs[layer], array(out)
            )
            x = self._products[layer - 1](out)
        return self._project(x.relu_().flatten(2)).float()

    def _bounds(self, batch: Batch, size: int) -> tuple[Array, Array]:
        """First real frame and the one after the last, of the input and after each layer, int64 [layers, B]."""
        layers = len(self._convs)
        low = np.zeros((layers, size), dtype=np.int64)
        high = np.empty((layers, size), dtype=np.int64)
        for layer in range(layers):
            if batch.masks is None:
                high[layer] = self._plan.chunk_mels >> layer
                continue
            mask = array(batch.masks[layer])
            some = mask.any(axis=1)
            low[layer] = np.where(some, mask.argmax(axis=1), 0)
            high[layer] = np.where(some, mask.shape[1] - mask[:, ::-1].argmax(axis=1), 0)
        return low, high

    def reset(self, slots: Tensor) -> None:
        """Forgets the past of the given slots, int64 [n]."""
        self._mels[slots] = 0
        for memory in self._memory:
            memory[slots] = 0

    def state_bytes(self) -> int:
        """Bytes of state per slot."""
        return sum(m[0].numel() * m.element_size() for m in (self._mels, *self._memory))


def _taps(stage: StageWeights) -> tuple[Array, Array]:
    """Weights of a one-channel or depthwise 3x3 convolution as [3, 3, channels], and its bias."""
    return array(stage.conv.weight.squeeze(1).permute(1, 2, 0).contiguous()), array(stage.conv.bias)

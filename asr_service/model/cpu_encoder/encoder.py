"""The encoder step on a CPU: one compiled function for all layers where it fits (`cpu_layers.py`: fp32, or bf16 on
tiles), else oneDNN's packed products with compiled loops (`cpu_kernels.py`) between them.

A layer is eight products and six loops. Keys, values and contexts are read and written in their pools, so a step's
memory traffic is the weights once, each stream's cache once, and activations that stay in the processor's caches.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.isa.amx import has_tiles
from asr_service.model.cpu_encoder.kernels.attention import attend
from asr_service.model.cpu_encoder.kernels.convolution import convolve
from asr_service.model.cpu_encoder.kernels.norm import add_norm, add_norm_norm, norm
from asr_service.model.cpu_encoder.kernels.rows import Array
from asr_service.model.cpu_encoder.onednn_encoder import Product, array
from asr_service.model.cpu_encoder.packing import LayerStack, fits
from asr_service.model.cpu_encoder.subsampling import CpuSubsampling
from asr_service.model.weights import Affine, EncoderWeights, LayerWeights, UnsupportedLayer


def _up(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


class _Layer:
    """One Conformer layer: products, and the small weights as arrays."""

    def __init__(self, weights: LayerWeights, dtype: torch.dtype) -> None:
        self.ff1_up = Product(weights.ff1_up, dtype, "swish")
        self.ff1_down = Product(weights.ff1_down, dtype)
        self.qkv = Product(weights.qkv, dtype)
        self.att_out = Product(weights.att_out, dtype)
        self.conv_in = Product(weights.conv_in, dtype)
        self.conv_out = Product(weights.conv_out, dtype)
        self.ff2_up = Product(weights.ff2_up, dtype, "swish")
        self.ff2_down = Product(weights.ff2_down, dtype)
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
        _start_threads()
        self._plan = plan
        self._dtype = dtype
        self.subsampling = CpuSubsampling(weights, plan, slots, dtype)
        self._stack: LayerStack | None = None
        self._layers: list[_Layer] = []
        if fits(weights.layers[0]) and (dtype == torch.float32 or has_tiles()):
            self._stack = LayerStack(weights.layers, dtype)
        else:
            self._layers = [_Layer(layer, dtype) for layer in weights.layers]
        first = weights.layers[0]
        self._heads, self._d_head, self._d_model = first.heads, first.d_head, weights.d_model
        if first.d_head % 4:
            raise UnsupportedLayer("attention heads are not a multiple of 4 wide")
        self._eps = np.float32(first.eps)
        count = len(weights.layers)
        # One chunk more than attention looks back, so that the new chunk has a place of its own.
        self._ring = self.ring_chunks + 1
        places = self._ring * plan.chunk_frames
        self._keys = torch.zeros(count, slots, first.heads, first.d_head, _up(places, 32), dtype=dtype)
        self._values = torch.zeros(count, slots, first.heads, _up(places, 4), first.d_head, dtype=dtype)
        kernel = first.conv.weight.shape[0]
        self._context = torch.zeros(count, slots, kernel - 1, weights.d_model, dtype=dtype)
        self._key_pool, self._value_pool, self._context_pool = map(
            array, (self._keys, self._values, self._context)
        )
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
        if self._stack is not None:
            pools = (self._key_pool, self._value_pool, self._context_pool)
            self._stack.run(x, pools, slots, steps, real, self._ring)
            return residual.view(size, chunk, self._d_model)
        hidden = torch.empty(rows, self._d_model, dtype=self._dtype)
        h = array(hidden)
        norm(x, *self._layers[0].norm_ff1, eps, h)
        for index, (layer, (keys, values, context)) in enumerate(zip(self._layers, self._pools, strict=True)):
            add_norm(x, array(layer.ff1_down(layer.ff1_up(hidden))), *layer.norm_att, eps, h)
            qkv = array(layer.qkv(hidden)).reshape(size, chunk, 3, self._heads, self._d_head)
            attend(
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
                h,
            )
            add_norm(x, array(layer.att_out(hidden)), *layer.norm_conv, eps, h)
            gates = array(layer.conv_in(hidden)).reshape(size, chunk, -1)
            convolve(gates, context, slots, *layer.conv, eps, h)
            add_norm(x, array(layer.conv_out(hidden)), *layer.norm_ff2, eps, h)
            after = self._layers[(index + 1) % len(self._layers)].norm_ff1
            add_norm_norm(x, array(layer.ff2_down(layer.ff2_up(hidden))), *layer.norm_out, eps, *after, h)
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


def _start_threads() -> None:
    """Starts Numba's threads without losing the number of torch's.

    Both use one OpenMP, and Numba, when it starts its threads, sets this thread's number to that of all processors.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    torch.set_num_threads(threads)

"""Steps the encoder in torch operations, a chunk at a time, with keys and values cached in rings.

NeMo caches each attention layer's input and projects it again every step. Here the projected keys and values of past
frames stay in per-slot rings of whole chunks: a step writes its chunk over the oldest one and nothing is moved. Where a
ring's oldest chunk lies differs between streams, so the relative-position scores, which depend on distance only, are
computed once for all distances and picked per key through a table (relative positions: Dai et al., Transformer-XL,
arXiv 1901.02860, section 3.3; chunked attention: Noroozi et al., arXiv 2312.17279).

`weights.py` reads the weights; `cpu_encoder/` has the same step in compiled loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.torch_encoder.subsampling import Subsampling
from asr_service.model.weights import Affine, EncoderWeights, LayerWeights, Linear

if TYPE_CHECKING:
    from asr_service.model.torch_encoder.fused import FusedLayer


class _Norm:
    """Layer normalisation over the last axis, in fp32."""

    def __init__(self, weights: Affine, eps: float) -> None:
        self.weight, self.bias = weights.weight, weights.bias
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class _Linear:
    """A product with a weight, plus a bias if there is one, in the type of products."""

    def __init__(self, weights: Linear, dtype: torch.dtype) -> None:
        self.weight = weights.weight.to(dtype)
        self.bias = None if weights.bias is None else weights.bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias)


@contextmanager
def products(*, tf32: bool) -> Iterator[None]:
    """Within this, products in fp32 are what `tf32` says, on GPUs: fp32 has to mean fp32, whatever is torch's default.

    torch lets convolutions use TF32 unless told otherwise, and both settings are the process's.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class RingIndex:
    """Says how far each key is from each query, for each place in the ring that the new chunk may be written to.

    Keys are ordered as in memory: the ring's `left_frames` places, then the new chunk.

    Args:
        plan: geometry of the model.
        device: of the tables.

    Attributes:
        chunks: that a ring holds.
    """

    def __init__(self, plan: ChunkPlan, device: torch.device) -> None:
        chunk, left = plan.chunk_frames, plan.left_frames
        self.chunks = left // chunk
        place = torch.arange(left)
        write = torch.arange(self.chunks)[:, None]
        age = (write - place // chunk - 1) % self.chunks + 1
        key = torch.cat([-age * chunk + place % chunk, torch.arange(chunk).expand(self.chunks, -1)], dim=1)
        distance = torch.arange(chunk)[None, :, None] - key[:, None, :]
        self._table = (distance + chunk - 1).to(device)
        self._place_chunk = (place // chunk).to(device)
        self._chunk = chunk

    @property
    def distances(self) -> int:
        """How many distances there are between a query and a key."""
        return self.chunks * self._chunk + 2 * self._chunk - 1

    def distance_index(self, steps: Tensor) -> Tensor:
        """Returns the index of the distance of each query and key.

        Args:
            steps: that the streams took before, int64 [B].

        Returns:
            int64 [B, 1, chunk, keys].
        """
        return self._table[steps % self.chunks].unsqueeze(1)

    def hidden_keys(self, batch: Batch) -> Tensor | None:
        """Returns which keys attention must not see: places not written yet, and frames after a stream's end.

        Returns:
            bool [B, 1, 1, keys], True where hidden; None if all may be seen.
        """
        if not batch.any_young and batch.masks is None:
            return None
        unwritten = self._place_chunk >= batch.steps[:, None]
        if batch.masks is None:
            new = torch.zeros(len(batch.steps), self._chunk, dtype=torch.bool, device=unwritten.device)
        else:
            new = ~batch.masks[-1]
        return torch.cat([unwritten, new], dim=1)[:, None, None, :]


class _Layer:
    """One Conformer layer; its state lies in the encoder's pools."""

    def __init__(self, weights: LayerWeights, dtype: torch.dtype) -> None:
        def norm(affine: Affine) -> _Norm:
            return _Norm(affine, weights.eps)

        self.heads, self.d_head = weights.heads, weights.d_head
        self.norm_ff1 = norm(weights.norm_ff1)
        self.ff1 = (_Linear(weights.ff1_up, dtype), _Linear(weights.ff1_down, dtype))
        self.norm_att = norm(weights.norm_att)
        self.qkv = _Linear(weights.qkv, dtype)
        self.bias_u, self.bias_v = weights.bias_u, weights.bias_v
        self.positions = weights.positions
        self.att_out = _Linear(weights.att_out, dtype)
        self.norm_conv = norm(weights.norm_conv)
        self.conv_in = _Linear(weights.conv_in, dtype)
        self.conv_weight, self.conv_bias = weights.conv.weight, weights.conv.bias
        self.kernel = self.conv_weight.shape[0]
        self.conv_norm = norm(weights.conv_norm)
        self.conv_out = _Linear(weights.conv_out, dtype)
        self.norm_ff2 = norm(weights.norm_ff2)
        self.ff2 = (_Linear(weights.ff2_up, dtype), _Linear(weights.ff2_down, dtype))
        self.norm_out = norm(weights.norm_out)

    def step(
        self, x: Tensor, keys: Tensor, values: Tensor, context: Tensor, batch: Batch, places: Tensor,
        distance_index: Tensor, hidden: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Runs the layer over one chunk of each row.

        Args:
            x: [B, chunk, d_model].
            keys, values: this layer's pools, [slots, heads, left, d_head].
            context: this layer's convolution pool, [slots, kernel - 1, d_model].
            batch: the step's batch.
            places: of the rings that this step writes, int64 [B, chunk].
            distance_index: from `RingIndex.distance_index`.
            hidden: from `RingIndex.hidden_keys`.

        Returns:
            [B, chunk, d_model].
        """
        up, down = self.ff1
        x = x + down(functional.silu(up(self.norm_ff1(x))))
        x = x + self._attend(self.norm_att(x), keys, values, batch, places, distance_index, hidden)
        gated = functional.glu(self.conv_in(self.norm_conv(x)), dim=-1)
        x = x + self.conv_out(functional.silu(self.conv_norm(self._convolve(gated, context, batch))))
        up, down = self.ff2
        x = x + down(functional.silu(up(self.norm_ff2(x))))
        return self.norm_out(x)

    def _attend(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        batch: Batch,
        places: Tensor,
        distance_index: Tensor,
        hidden: Tensor | None,
    ) -> Tensor:
        """Relative-position attention over the ring and the chunk; [B, chunk, d_model] in and out."""
        size, chunk, _ = x.shape
        left = keys.shape[2]
        qkv = self.qkv(x).view(size, chunk, 3, self.heads, self.d_head)
        new_keys, new_values = qkv[:, :, 1], qkv[:, :, 2]
        # Scores and softmax are in fp32 whatever the type of products and pools; nothing is copied in fp32.
        query = qkv[:, :, 0].float()
        key, value = new_keys.float().transpose(1, 2), new_values.float().transpose(1, 2)
        past_keys, past_values = keys[batch.slots].float(), values[batch.slots].float()
        with_u = (query + self.bias_u).transpose(1, 2)
        # One product per head over all rows: positions do not depend on the stream.
        with_v = (query + self.bias_v).permute(2, 0, 1, 3).reshape(self.heads, size * chunk, self.d_head)
        by_distance = torch.bmm(with_v, self.positions).view(self.heads, size, chunk, -1).transpose(0, 1)
        scores = torch.cat([with_u @ past_keys.transpose(-2, -1), with_u @ key.transpose(-2, -1)], dim=-1)
        scores = scores + by_distance.gather(-1, distance_index.expand(-1, self.heads, -1, -1))
        if hidden is not None:
            scores = scores.masked_fill(hidden, float("-inf"))
        weights = scores.softmax(dim=-1)
        if hidden is not None:
            # A row without a real frame, whose keys may all be hidden, has no weights; its output is not used.
            weights = weights.nan_to_num()
        mixed = weights[..., :left] @ past_values + weights[..., left:] @ value
        slots = batch.slots[:, None]
        keys[slots, :, places] = new_keys
        values[slots, :, places] = new_values
        return self.att_out(mixed.transpose(1, 2).reshape(size, chunk, -1))

    def _convolve(self, x: Tensor, context: Tensor, batch: Batch) -> Tensor:
        """Causal depthwise convolution over [context, x]; [B, chunk, d_model] in and out."""
        padded = torch.cat([context[batch.slots], x], dim=1)
        context[batch.slots] = padded[:, -(self.kernel - 1) :]
        # The product with the taps, which are fp32, is fp32.
        out: Tensor = (padded.unfold(1, self.kernel, 1) * self.conv_weight.t()).sum(-1)
        return out + self.conv_bias


class TorchEncoder:
    """Steps the encoder in torch operations: on GPUs, and on CPUs where the compiled loops cannot run the model.

    Args:
        weights: of the encoder.
        plan: geometry of the model.
        slots: rows of pooled state.
        device: of the state and the arithmetic.
        dtype: of products and of the state. The residual, normalisations, convolutions' taps, scores and softmax are
            fp32, as on a CPU.
        tf32: whether products in fp32 may round their inputs to TF32; nothing outside the encoder does.
        fused: whether Triton kernels do what lies between the products of a layer.
    """

    def __init__(
        self, weights: EncoderWeights, plan: ChunkPlan, slots: int, device: torch.device, dtype: torch.dtype,
        *, tf32: bool = False, fused: bool = False,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._tf32 = tf32
        self._subsampling = Subsampling(weights, slots, device, dtype)
        self._ring = RingIndex(plan, device)
        self._layers: list[_Layer] = []
        self._fused: list[FusedLayer] = []
        if fused:
            # Imported here since there is no Triton everywhere.
            from asr_service.model.torch_encoder.fused import FusedLayer

            self._fused = [FusedLayer(layer, dtype) for layer in weights.layers]
        else:
            self._layers = [_Layer(layer, dtype) for layer in weights.layers]
        first, layers = weights.layers[0], len(weights.layers)
        kernel = first.conv.weight.shape[0]
        ring = (layers, slots, first.heads, plan.left_frames, first.d_head)
        self._keys = torch.zeros(ring, device=device, dtype=dtype)
        self._values = torch.zeros(ring, device=device, dtype=dtype)
        self._context = torch.zeros(layers, slots, kernel - 1, weights.d_model, device=device, dtype=dtype)
        self._frame = torch.arange(plan.chunk_frames, device=device)

    @property
    def ring_chunks(self) -> int:
        """Chunks of the past that attention sees."""
        return self._ring.chunks

    @property
    def kernels(self) -> str:
        """What runs between the products: "triton" or "torch"."""
        return "triton" if self._fused else "torch"

    def state(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the pools of the layers: keys, values, contexts of convolutions; layer and slot come first."""
        return self._keys, self._values, self._context

    def step(self, batch: Batch, mel: Tensor) -> Tensor:
        """Encodes one chunk of each row.

        Args:
            batch: the step's batch.
            mel: fp32 [B, chunk_mels, mels].

        Returns:
            fp32 [B, chunk_frames, d_model]; frames that are not real hold anything finite.
        """
        with products(tf32=self._tf32):
            return self._step(batch, mel)

    def _step(self, batch: Batch, mel: Tensor) -> Tensor:
        x = self._subsampling.step(batch, mel).float()
        if self._fused:
            return self._run_fused(batch, x)
        distance_index = self._ring.distance_index(batch.steps)
        hidden = self._ring.hidden_keys(batch)
        places = (batch.steps % self._ring.chunks)[:, None] * self._plan.chunk_frames + self._frame
        for layer, keys, values, context in zip(
            self._layers, self._keys, self._values, self._context, strict=True
        ):
            x = layer.step(x, keys, values, context, batch, places, distance_index, hidden)
        return x

    def _run_fused(self, batch: Batch, x: Tensor) -> Tensor:
        chunk = self._plan.chunk_frames
        real = torch.full_like(batch.steps, chunk) if batch.masks is None else batch.masks[-1].sum(1)
        shape, x = x.shape, x.flatten(0, 1).contiguous()
        rows = (batch.slots, batch.steps, real)
        hidden = self._fused[0].start(x)
        for number, layer in enumerate(self._fused):
            following = self._fused[number + 1] if number + 1 < len(self._fused) else None
            keys, values, context = self._keys[number], self._values[number], self._context[number]
            hidden = layer.step(x, hidden, keys, values, context, rows, chunk, following)
        return x.view(shape)

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], at the start of a stream.

        Their rings need no clearing: places that the new stream has not written are hidden.
        """
        self._subsampling.reset(slots)
        self._context.index_fill_(1, slots, 0.0)

    def clear(self, slots: Tensor) -> None:
        """Overwrites all state of the given slots, int64 [n], after a step that made numbers that are not finite.

        A hidden key has weight zero, but zero times such a number is not zero.
        """
        self.reset(slots)
        self._keys.index_fill_(1, slots, 0.0)
        self._values.index_fill_(1, slots, 0.0)

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        pools = (self._keys, self._values, self._context)
        return self._subsampling.state_bytes() + sum(p[:, 0].numel() * p.element_size() for p in pools)

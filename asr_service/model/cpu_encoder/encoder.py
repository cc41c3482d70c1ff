"""The encoder step on a CPU: pools of state, the subsampling, and one of two ways to run the layers.

`CompiledLayers` is one compiled function for all layers (fp32, or bf16 on tiles; widths that are multiples of 32);
`OneDnnLayers` does the rest by oneDNN's packed products with compiled loops between them. Keys, values and contexts are
read and written in their pools, so a step's memory traffic is the weights once, each stream's cache once, and
activations that stay in the processor's caches.
"""

from __future__ import annotations

from typing import Protocol

import numba
import torch
from torch import Tensor

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.compiled_encoder import CompiledLayers
from asr_service.model.cpu_encoder.isa.tiles import TileUnit, find_tiles
from asr_service.model.cpu_encoder.kernels.attention import Streams
from asr_service.model.cpu_encoder.layers import Pools
from asr_service.model.cpu_encoder.onednn_encoder import OneDnnLayers
from asr_service.model.cpu_encoder.packing import DISTANCE_MULTIPLE, VALUE_MULTIPLE, array, pool, round_up
from asr_service.model.cpu_encoder.subsampling import CpuSubsampling
from asr_service.model.weights import EncoderWeights, UnsupportedLayer

# Numbers of a head that attention takes at a time.
_HEAD_MULTIPLE = 4


class Layers(Protocol):
    """All Conformer layers of an encoder, on its pools."""

    def run(self, residual: Tensor, streams: Streams, threads: int) -> None:
        """Runs the layers.

        Args:
            residual: the residual stream, fp32 [rows, d_model], changed in place.
            streams: of the B rows of the batch; rows = B x chunk frames.
            threads: how many to use.
        """
        ...


class CpuEncoder:
    """Encoder step for CPUs, from prepared weights. Pools have one row per slot."""

    def __init__(
        self,
        weights: EncoderWeights,
        plan: ChunkPlan,
        slots: int,
        dtype: torch.dtype,
        tiles: TileUnit | None = None,
    ) -> None:
        """Allocates the pools and packs the weights.

        Args:
            weights: of the encoder.
            plan: geometry of chunks.
            slots: rows of the pools.
            dtype: fp32 or bf16, of products and pools.
            tiles: the unit for products on tiles; by default the one that this process may use.

        Raises:
            UnsupportedLayer: if the subsampling is not the depthwise-separable one, or heads are no multiples of 4.
        """
        _start_threads()
        tiles = find_tiles() if tiles is None else tiles
        self._plan = plan
        self.subsampling = CpuSubsampling(weights, plan, slots, dtype)
        first = weights.layers[0]
        if first.d_head % _HEAD_MULTIPLE:
            raise UnsupportedLayer("attention heads are not a multiple of 4 wide")
        self._d_model = weights.d_model
        count = len(weights.layers)
        # One chunk more than attention looks back, so that the new chunk has a place of its own.
        self._ring = self.ring_chunks + 1
        places = self._ring * plan.chunk_frames
        width, rows = round_up(places, DISTANCE_MULTIPLE), round_up(places, VALUE_MULTIPLE)
        self._keys = pool(count, slots, first.heads, first.d_head, width, dtype=dtype)
        self._values = pool(count, slots, first.heads, rows, first.d_head, dtype=dtype)
        kernel = first.conv.weight.shape[0]
        self._context = pool(count, slots, kernel - 1, weights.d_model, dtype=dtype)
        pools = Pools(array(self._keys), array(self._values), array(self._context))
        self._layers: Layers
        if CompiledLayers.can_run(first, dtype, tiles):
            self._layers = CompiledLayers(weights.layers, dtype, pools, tiles, _most_threads())
        else:
            self._layers = OneDnnLayers(weights.layers, dtype, pools)

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
        # Products and loops take turns on the same cores. Numba's number is the calling thread's own.
        threads = min(torch.get_num_threads(), _most_threads())
        numba.set_num_threads(threads)
        streams = Streams(array(batch.slots), array(batch.steps), array(batch.frames), self._ring)
        residual = self.subsampling.step(batch, mel).view(size * chunk, self._d_model)
        self._layers.run(residual, streams, threads)
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


def _most_threads() -> int:
    """Threads that Numba has started."""
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def _start_threads() -> None:
    """Starts Numba's threads without losing the number of torch's.

    Both use one OpenMP, and Numba, when it starts its threads, sets this thread's number to that of all processors.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(_most_threads())
    torch.set_num_threads(threads)

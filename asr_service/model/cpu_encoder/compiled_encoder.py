"""The Conformer layers as one compiled function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asr_service.model.cpu_encoder.isa.tiles import NoTiles, TileUnit
from asr_service.model.cpu_encoder.kernels.attention import Streams
from asr_service.model.cpu_encoder.kernels.barrier import counters
from asr_service.model.cpu_encoder.kernels.gemm_choice import choose_gemm
from asr_service.model.cpu_encoder.layers import Pools, phases, run_layers
from asr_service.model.cpu_encoder.packing import ScratchMemory, array, fits, stack_weights
from asr_service.model.weights import LayerWeights


class CompiledLayers:
    """Runs the layers by `layers.run_layers`: fp32, or bf16 on tiles, where all widths are multiples of 32."""

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        dtype: torch.dtype,
        pools: Pools,
        tiles: TileUnit,
        most_threads: int,
    ) -> None:
        """Packs the weights. `can_run` says for which layers this works."""
        self._dtype = dtype
        self._pools = pools
        self._tiles = tiles
        self._weights = stack_weights(layers, dtype, tiles)
        self._scratch = ScratchMemory(layers[0], dtype, tiles, most_threads)
        self._counts = counters(phases(len(layers)))

    @staticmethod
    def can_run(layer: LayerWeights, dtype: torch.dtype, tiles: TileUnit) -> bool:
        """Whether layers like this one can be compiled."""
        return fits(layer) and (dtype == torch.float32 or not isinstance(tiles, NoTiles))

    def run(self, residual: Tensor, streams: Streams, threads: int) -> None:
        """All layers on the residual stream, fp32 [rows, d_model], in place."""
        x = array(residual)
        self._counts[:] = 0
        gemm = choose_gemm(self._dtype, len(x), self._tiles)
        # A step of few rows need not set up tiles, nor be compiled for each kind of them.
        tiles = self._tiles if gemm.USES_TILES else NoTiles(0)
        buffers = self._scratch.buffers(len(x), threads, gemm.INPUTS)
        run_layers(threads, self._counts, x, self._weights, self._pools, streams, buffers, tiles)

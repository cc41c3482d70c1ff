"""The contract of every matrix product: what it is given, and what a file `gemm_*.py` offers.

A product is computed by blocks of `COLUMNS` output columns, which threads share: its weights are packed so that a block
lies together, and a block is finished (`Finish`) while its sums are warm.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from asr_service.model.cpu_encoder.compiling import Array, Int
from asr_service.model.cpu_encoder.isa.tiles import TileUnit


class Finish(IntEnum):
    """What becomes of sums + bias."""

    STORE = 0
    """Is the output."""
    SWISH = 1
    """Goes through x * sigmoid(x) first."""
    ADD = 2
    """Is added to the residual stream."""


class Product(NamedTuple):
    """One product: inputs @ weights + bias.

    Attributes:
        rows: how many rows count.
        depth: inputs of a row, a multiple of 32.
        inputs: [at least rows, up to a multiple of 32; at least depth], laid out as the file's `INPUTS` says.
        weights: flat, from `pack`; those of this product begin at `offset`.
        offset: numbers.
        bias: float32 [columns].
        finish: a `Finish`.
        out: [rows, at least columns], or three such planes, for STORE and SWISH.
        residual: float32 [rows, columns] for ADD.
    """

    rows: Int
    depth: Int
    inputs: Array
    weights: Array
    offset: Int
    bias: Array
    finish: Int
    out: Array
    residual: Array


class BlockScratch(NamedTuple):
    """A thread's own memory for a block.

    Attributes:
        sums: float32 [SUMS].
        weights: uint8, at least `scratch_bytes`, from a cache line on.
    """

    sums: Array
    weights: Array


class InputLayout(NamedTuple):
    """How the inputs of a product lie in memory.

    Attributes:
        dtype: of the numbers.
        planes: () for [rows, depth], (3,) for three parts of it, [3, rows, depth].
    """

    dtype: torch.dtype
    planes: tuple[int, ...]


class Gemm(Protocol):
    """A file of products. Modules keep this contract.

    Attributes:
        INPUTS: how inputs lie.
        USES_TILES: whether threads need tiles set up.
    """

    INPUTS: InputLayout
    USES_TILES: bool

    def pack(self, weight: Tensor) -> Array:
        """Weights float32 [out, in], multiples of 32 both, to a flat array, block by block."""
        ...

    def scratch_bytes(self, depth: int) -> int:
        """Bytes of `BlockScratch.weights` for products of so many inputs."""
        ...

    def block(
        self, tiles: TileUnit, product: Product, which: Int, next_block: Int, scratch: BlockScratch
    ) -> None:
        """One block of a product, in compiled code.

        Args:
            tiles: the unit for products on tiles.
            product: the product.
            which: the block.
            next_block: the block this thread takes next, or -1: its weights are prefetched meanwhile.
            scratch: the thread's own.
        """
        ...

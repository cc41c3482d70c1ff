"""Which file's products a step uses: chosen in Python by precision and rows, in compiled code by the types of both."""

from __future__ import annotations

import torch
from numba import types
from numba.extending import overload

from asr_service.model.cpu_encoder.compiling import Int
from asr_service.model.cpu_encoder.isa.tiles import NoTiles, TileUnit
from asr_service.model.cpu_encoder.kernels import gemm_bf16_amx, gemm_fp32, gemm_fp32_amx
from asr_service.model.cpu_encoder.kernels.gemm import BlockScratch, Gemm, Product

FEW_ROWS = 4
"""Most rows whose float32 products are computed on vectors where there are tiles; all of them where there are none."""


def choose_gemm(dtype: torch.dtype, rows: int, tiles: TileUnit) -> Gemm:
    """The products of a step of so many rows. Those of a precision all pack weights in the same way.

    Raises:
        ValueError: for bfloat16 without tiles.
    """
    if dtype == torch.bfloat16:
        if isinstance(tiles, NoTiles):
            raise ValueError("compiled products in bfloat16 need tiles")
        return gemm_bf16_amx
    return gemm_fp32 if rows <= FEW_ROWS or isinstance(tiles, NoTiles) else gemm_fp32_amx


def multiply_block(
    tiles: TileUnit, product: Product, which: Int, next_block: Int, scratch: BlockScratch
) -> None:
    """`block` of the file whose weights and inputs these are. Decided while compiling."""
    raise AssertionError("only compiled code calls this")


@overload(multiply_block, inline="always")
def _multiply_block(tiles, product, which, next_block, scratch):  # type: ignore[no-untyped-def]
    fields = dict(zip(product.fields, product.types, strict=True))
    if fields["weights"].dtype == types.uint16:
        return lambda tiles, product, which, next_block, scratch: gemm_bf16_amx.block(
            tiles, product, which, next_block, scratch
        )
    if fields["inputs"].dtype == types.uint16:
        return lambda tiles, product, which, next_block, scratch: gemm_fp32_amx.block(
            tiles, product, which, next_block, scratch
        )
    return lambda tiles, product, which, next_block, scratch: gemm_fp32.block(
        tiles, product, which, next_block, scratch
    )

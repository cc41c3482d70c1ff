"""The contract of products, kept by each file of them, on the processor's tiles and on emulated ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from asr_service.model.cpu_encoder.compiling import Array
from asr_service.model.cpu_encoder.isa.amx import SUMS
from asr_service.model.cpu_encoder.isa.tiles import NoTiles, TileUnit, start_tiles, stop_tiles
from asr_service.model.cpu_encoder.isa.vectors import COLUMNS
from asr_service.model.cpu_encoder.kernels import gemm_bf16_amx, gemm_fp32, gemm_fp32_amx
from asr_service.model.cpu_encoder.kernels.gemm import BlockScratch, Finish, Gemm, Product
from asr_service.model.cpu_encoder.kernels.gemm_choice import FEW_ROWS, choose_gemm, multiply_block
from asr_service.model.cpu_encoder.kernels.gemm_fp32 import PANEL
from asr_service.model.cpu_encoder.kernels.rows import put
from tests.support.tile_units import TILES
from tests.unit.model.cpu_encoder.intrinsics import aligned, from_bfloat16, to_bfloat16

DEPTH, OUT = 96, 64
KINDS: list[Any] = [
    pytest.param(gemm_fp32, NoTiles(0), id="fp32"),
    *(pytest.param(gemm_bf16_amx, *t.values, id=f"bf16, {t.id}", marks=t.marks) for t in TILES),
    *(pytest.param(gemm_fp32_amx, *t.values, id=f"fp32, {t.id}", marks=t.marks) for t in TILES),
]


@njit
def _all_blocks(tiles: TileUnit, product: Product, blocks: int, scratch: BlockScratch) -> None:
    start_tiles(tiles)
    for which in range(blocks):
        next_block = which + 1 if which + 1 < blocks else -1
        multiply_block(tiles, product, which, next_block, scratch)
    stop_tiles(tiles)


@njit
def _put_all(x: Array, out: Array) -> None:
    for r in range(x.shape[0]):
        put(x[r], out, r, 0)


def _inputs(x: Array, kind: Gemm) -> Array:
    """Rows as the kind wants them, with a rest behind rows and columns."""
    rows, depth = x.shape
    dtype = np.uint16 if kind.INPUTS.dtype == torch.bfloat16 else np.float32
    inputs = aligned((*kind.INPUTS.planes, -(-rows // 32) * 32, depth + 32), dtype)
    _put_all(x, inputs)
    return inputs


def _multiply(
    kind: Gemm, tiles: TileUnit, x: Array, weight: torch.Tensor, bias: Array, finish: Finish, residual: Array
) -> Array:
    """All blocks of a product, its weights behind others; what it gives, float32, and one row more."""
    rows, depth = x.shape
    packed = kind.pack(weight)
    weights = aligned((packed.size + 32,), packed.dtype)
    weights[32:] = packed
    stored: type[np.generic] = np.float32
    planes: tuple[int, ...] = ()
    if kind is gemm_bf16_amx or (kind is gemm_fp32_amx and finish == Finish.SWISH):
        stored, planes = np.uint16, kind.INPUTS.planes
    out = aligned((*planes, rows + 1, weight.shape[0] + 32), stored)
    scratch = BlockScratch(aligned((SUMS,), np.float32), aligned((kind.scratch_bytes(depth),), np.uint8))
    product = Product(rows, depth, _inputs(x, kind), weights, 32, bias, finish, out, residual)
    _all_blocks(tiles, product, weight.shape[0] // COLUMNS, scratch)
    if finish == Finish.ADD:
        assert not out.any()
        return residual
    assert not out[..., weight.shape[0] :].any(), "columns beyond were touched"
    whole = from_bfloat16(out) if stored == np.uint16 else out
    return (whole.astype(np.float64).sum(axis=0) if planes else whole)[:, : weight.shape[0]]


@pytest.mark.parametrize("finish", list(Finish))
@pytest.mark.parametrize("rows", [1, 3, 5, PANEL, PANEL + 1, 16, 17, 32, 33, 70])
@pytest.mark.parametrize(("kind", "tiles"), KINDS)
def test_blocks_give_each_row_once(kind: Gemm, tiles: TileUnit, rows: int, finish: Finish) -> None:
    """One row, a part of a tile, panels whose last one does some rows again, several turns of 32 rows with a rest."""
    torch.manual_seed(rows)
    x, before = torch.randn(rows, DEPTH), torch.randn(rows + 1, OUT)
    weight, bias = torch.randn(OUT, DEPTH) * 0.1, torch.randn(OUT)
    half = kind is gemm_bf16_amx
    a, w = (t.bfloat16().double() if half else t.double() for t in (x, weight))
    product = a @ w.T + bias
    expected = {
        Finish.STORE: product,
        Finish.SWISH: torch.nn.functional.silu(product),
        Finish.ADD: product + before[:rows],
    }[finish]
    residual = before.clone().numpy()
    got = _multiply(kind, tiles, x.numpy(), weight, bias.numpy(), finish, residual)
    rounding = 2.0**-8 if half and finish != Finish.ADD else 1e-6
    np.testing.assert_allclose(got[:rows], expected, rtol=rounding, atol=2e-5)
    assert (got[rows:] == (before[rows:].numpy() if finish == Finish.ADD else 0)).all(), (
        "rows beyond were touched"
    )
    if finish != Finish.ADD:
        assert (residual == before.numpy()).all()


@pytest.mark.parametrize(("kind", "tiles"), KINDS)
def test_a_row_is_the_same_in_any_company(kind: Gemm, tiles: TileUnit) -> None:
    torch.manual_seed(4)
    x, weight, bias = torch.randn(70, DEPTH), torch.randn(OUT, DEPTH), torch.randn(OUT)

    def rows(first: int, count: int) -> Array:
        part = x[first : first + count].numpy()
        residual = np.zeros((count + 1, OUT), np.float32)
        return _multiply(kind, tiles, part, weight, bias.numpy(), Finish.STORE, residual)[:count]

    together = rows(0, 70)
    for first, count in ((1, PANEL), (13, PANEL + 1), (20, 1), (33, 2), (40, 17), (37, 33)):
        assert (rows(first, count) == together[first : first + count]).all()


@pytest.mark.parametrize("tiles", TILES)
def test_three_parts_are_as_good_as_float32(tiles: TileUnit) -> None:
    """Against float64, with inputs over many magnitudes; a library's float32 product is the measure."""
    torch.manual_seed(2)
    rows, depth = 40, 512
    x = torch.randn(rows, depth) * torch.logspace(-6, 3, depth)
    weight, bias = torch.randn(OUT, depth), torch.randn(OUT)
    exact = x.double() @ weight.double().T + bias
    residual = np.zeros((rows + 1, OUT), np.float32)
    got = _multiply(gemm_fp32_amx, tiles, x.numpy(), weight, bias.numpy(), Finish.STORE, residual)

    def distance(product: torch.Tensor) -> float:
        return float(((product.double() - exact).norm(dim=1) / exact.norm(dim=1)).max())

    assert distance(torch.from_numpy(np.ascontiguousarray(got[:rows]))) < 2 * distance(x @ weight.T + bias)


def test_packed_weights_lie_block_by_block() -> None:
    weight = torch.arange(64 * 96, dtype=torch.float32).view(64, 96) / 256
    floats = gemm_fp32.pack(weight).reshape(2, 96, 32)
    assert (floats == weight.view(2, 32, 96).permute(0, 2, 1).numpy()).all()
    assert (gemm_fp32_amx.pack(weight) == floats.reshape(-1)).all()
    halves = gemm_bf16_amx.pack(weight).reshape(2, 3, 2, 16, 16, 2)
    for column, depth in ((0, 0), (17, 5), (33, 95), (63, 64)):
        block, column_of_block = divmod(column, 32)
        step, depth_of_step = divmod(depth, 32)
        place = (
            block,
            step,
            column_of_block // 16,
            depth_of_step // 2,
            column_of_block % 16,
            depth_of_step % 2,
        )
        assert halves[place] == to_bfloat16(weight[column, depth].numpy())


@pytest.mark.parametrize("tiles", TILES)
def test_products_are_chosen_by_precision_rows_and_tiles(tiles: TileUnit) -> None:
    assert choose_gemm(torch.float32, FEW_ROWS, tiles) is gemm_fp32
    assert choose_gemm(torch.float32, FEW_ROWS + 1, tiles) is gemm_fp32_amx
    assert choose_gemm(torch.float32, FEW_ROWS + 1, NoTiles(0)) is gemm_fp32
    assert choose_gemm(torch.bfloat16, 1, tiles) is gemm_bf16_amx
    with pytest.raises(ValueError, match="tiles"):
        choose_gemm(torch.bfloat16, 1, NoTiles(0))

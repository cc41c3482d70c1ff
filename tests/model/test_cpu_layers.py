"""The compiled layer stack against the same step in torch operations, on made-up weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import njit, prange

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.encoder import CpuEncoder
from asr_service.model.cpu_encoder.isa.amx import (
    COLUMNS,
    SUMS,
    has_tiles,
    start_tiles,
    stop_tiles,
    tile_config,
)
from asr_service.model.cpu_encoder.isa.vectors import ADD, STORE, SWISH
from asr_service.model.cpu_encoder.kernels.barrier import claim, counters, done, wait
from asr_service.model.cpu_encoder.kernels.gemm_fp32 import PANEL, float_block
from asr_service.model.cpu_encoder.kernels.gemm_fp32_amx import PARTS_STEP, pack_float, split_block
from asr_service.model.cpu_encoder.kernels.rows import put
from asr_service.model.cpu_encoder.packing import FEW_ROWS
from asr_service.model.torch_encoder.encoder import TorchEncoder
from asr_service.model.weights import Affine, EncoderWeights, LayerWeights, StageWeights

_CONFIG = tile_config()
D, HEADS, CHANNELS, KERNEL = 96, 4, 32, 9
NEEDS_TILES = pytest.mark.skipif(not has_tiles(), reason="this CPU has no bfloat16 tiles")


def _affine(out: int, *width: int) -> Affine:
    return Affine(torch.randn(out, *width) * float(np.prod(width)) ** -0.5, 0.1 * torch.randn(out))


def _norm() -> Affine:
    return Affine(1 + 0.1 * torch.randn(D), 0.1 * torch.randn(D))


def _weights(plan: ChunkPlan) -> EncoderWeights:
    torch.manual_seed(5)
    width = D // HEADS
    distances = plan.left_frames + 2 * plan.chunk_frames - 1
    layers = [
        LayerWeights(
            heads=HEADS, d_head=width, norm_ff1=_norm(), ff1_up=_affine(4 * D, D), ff1_down=_affine(D, 4 * D),
            norm_att=_norm(), qkv=_affine(3 * D, D), att_out=_affine(D, D), bias_u=0.1 * torch.randn(HEADS, width),
            bias_v=0.1 * torch.randn(HEADS, width), positions=0.3 * torch.randn(HEADS, width, distances),
            norm_conv=_norm(), conv_in=_affine(2 * D, D),
            conv=Affine(0.3 * torch.randn(KERNEL, D), 0.1 * torch.randn(D)), conv_norm=_norm(),
            conv_out=_affine(D, D), norm_ff2=_norm(), ff2_up=_affine(4 * D, D), ff2_down=_affine(D, 4 * D),
            norm_out=_norm(), eps=1e-5,
        )
        for _ in range(3)
    ]  # fmt: skip
    first = StageWeights(_affine(CHANNELS, 1, 3, 3), 1, None)
    rest = [StageWeights(_affine(CHANNELS, 1, 3, 3), CHANNELS, _affine(CHANNELS, CHANNELS)) for _ in range(2)]
    return EncoderWeights([first, *rest], [80, 41, 21, 11], _affine(D, 11 * CHANNELS), layers, D)


def _differences(chunk: int, size: int, dtype: torch.dtype, *, tiles: bool = True) -> list[float]:
    """Relative distance of the two steps' outputs, over streams of different ages in changing batches."""
    plan = ChunkPlan(160, 400, 8, chunk, 70 // chunk * chunk)
    weights = _weights(plan)
    cpu = torch.device("cpu")
    rng = np.random.default_rng(3)
    found = []
    with torch.inference_mode():
        plain = TorchEncoder(weights, plan, size + 1, cpu, torch.float32)
        stack = CpuEncoder(weights, plan, size + 1, dtype)
        if not tiles and stack._stack is not None:
            stack._stack._tiles = False  # as on a processor without them
        ages = np.zeros(size, dtype=np.int64)
        for _ in range(2 * plain.ring_chunks + 3):
            slots = np.sort(rng.permutation(size)[: rng.integers(1, size + 1)])
            batch = Batch(
                torch.from_numpy(slots), torch.from_numpy(ages[slots]), None, [chunk] * len(slots),
                bool((ages[slots] < plain.ring_chunks).any()),
            )  # fmt: skip
            ages[slots] += 1
            mel = torch.randn(len(slots), 8 * chunk, 80)
            expected, got = plain.step(batch, mel.clone()), stack.step(batch, mel.clone())
            found.append(float((expected - got).norm() / expected.norm()))
    return found


@pytest.mark.parametrize(("chunk", "size"), [(1, 1), (1, FEW_ROWS), (2, 2), (2, 5), (2, 20), (14, 3)])
def test_fp32_few_rows_and_many_give_the_same(chunk: int, size: int) -> None:
    """Dots up to `FEW_ROWS` rows, tiles or panels beyond: streams that change between them notice nothing."""
    assert max(_differences(chunk, size, torch.float32)) < 2e-6


@NEEDS_TILES
@pytest.mark.parametrize(("chunk", "size"), [(2, 5), (2, 20)])
def test_fp32_without_tiles_where_there_are_some(chunk: int, size: int) -> None:
    assert max(_differences(chunk, size, torch.float32, tiles=False)) < 2e-6


@NEEDS_TILES
def test_three_parts_are_as_good_as_float32() -> None:
    """Against float64, with inputs over many magnitudes; a library's float32 product is the measure."""
    torch.manual_seed(2)
    rows, depth, columns = 40, 512, 64
    x = torch.randn(rows, depth) * torch.logspace(-6, 3, depth)
    weight, bias = torch.randn(columns, depth), torch.randn(columns)
    exact = x.double() @ weight.double().T + bias
    planes = np.zeros((3, 64, depth), dtype=np.uint16)
    got = np.zeros((rows, columns), dtype=np.float32)
    _multiply(x.numpy(), planes, pack_float(weight), bias.numpy(), got)

    def distance(product: torch.Tensor) -> float:
        return float(((product.double() - exact).norm(dim=1) / exact.norm(dim=1)).max())

    assert distance(torch.from_numpy(got)) < 2 * distance(x @ weight.T + bias)


@pytest.mark.parametrize("rows", [1, 3, 5, PANEL, PANEL + 1, 3 * PANEL - 1, 4 * PANEL])
@pytest.mark.parametrize("kind", [STORE, SWISH, ADD])
def test_float_blocks_give_each_row_once_and_the_same_in_any_company(rows: int, kind: int) -> None:
    """Dots of up to four rows and panels of more, whose last one does some rows again."""
    torch.manual_seed(rows)
    depth, columns = 96, 64
    x, out = torch.randn(rows, depth), torch.randn(rows + 3, columns)
    weight, bias = torch.randn(columns, depth) * 0.1, torch.randn(columns)
    product = x.double() @ weight.double().T + bias
    expected = {STORE: product, SWISH: torch.nn.functional.silu(product), ADD: product + out[:rows]}[kind]
    padded = torch.nn.functional.pad(x, (0, 32, 0, 32)).numpy()
    got = out.clone().numpy()
    packed = pack_float(weight)
    _multiply_floats(padded, rows, depth, packed, bias.numpy(), kind, got)
    assert torch.allclose(torch.from_numpy(got[:rows]).double(), expected, atol=1e-5)
    assert (got[rows:] == out[rows:].numpy()).all(), "rows beyond were touched"
    if rows >= PANEL:
        fewer = out.clone().numpy()
        _multiply_floats(padded[1:], PANEL, depth, packed, bias.numpy(), kind, fewer[1:])
        assert (fewer[1 : min(rows, PANEL + 1)] == got[1 : min(rows, PANEL + 1)]).all()
        alone = out.clone().numpy()
        _multiply_floats(padded[1:], 1, depth, packed, bias.numpy(), kind, alone[1:])
        assert (alone[1] == got[1]).all()


@njit
def _multiply_floats(x, rows, depth, weights, bias, kind, out):  # type: ignore[no-untyped-def]
    sums, parts = np.empty(SUMS, np.float32), np.empty(0, np.uint8)
    blocks = out.shape[1] // COLUMNS
    for block in range(blocks):
        coming = block + 1 if block + 1 < blocks else -1
        float_block(x, rows, depth, weights, 0, bias, block, coming, kind, out, out, sums, parts)


@njit
def _multiply(x, planes, weights, bias, out):  # type: ignore[no-untyped-def]
    config = _CONFIG
    sums, parts = np.empty(SUMS, np.float32), np.empty(x.shape[1] // 32 * PARTS_STEP + 64, np.uint8)
    parts = parts[-parts.ctypes.data % 64 :]
    for r in range(x.shape[0]):
        put(x[r], planes, r, 0)
    start_tiles(config)
    for block in range(out.shape[1] // COLUMNS):
        split_block(planes, x.shape[0], x.shape[1], weights, 0, bias, block, -1, STORE, out, out, sums, parts)
    stop_tiles()


@NEEDS_TILES
@pytest.mark.parametrize(("chunk", "size"), [(1, 1), (2, 1), (2, 20), (14, 3)])
def test_bf16_tiles_are_close_for_any_number_of_rows(chunk: int, size: int) -> None:
    """One row, a part of a tile, several turns of 32 rows with a rest."""
    assert max(_differences(chunk, size, torch.bfloat16)) < 0.03


@njit(parallel=True)
def _count(threads, counts, items, seen):  # type: ignore[no-untyped-def]
    for _ in prange(threads):
        for phase in range(counts.shape[1]):
            item = claim(counts, phase)
            while item < items:
                # Everything of the phase before is done when an item of this one is.
                if phase and seen[phase - 1].sum() != items:
                    seen[phase, item] += 100
                seen[phase, item] += 1
                done(counts, phase, 1)
                item = claim(counts, phase)
            wait(counts, phase, items)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_each_item_is_done_once_and_phases_in_order(threads: int) -> None:
    """Also when there are more parts than threads: parts that come late find nothing to do."""
    seen = np.zeros((50, 13), dtype=np.int64)
    _count(threads, counters(50), 13, seen)
    assert (seen == 1).all()

"""The compiled layer stack against the same step in torch operations, on made-up weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.encoder import CpuEncoder
from asr_service.model.cpu_encoder.isa.tiles import NoTiles, TileUnit
from asr_service.model.cpu_encoder.kernels.gemm_choice import FEW_ROWS
from asr_service.model.torch_encoder.encoder import TorchEncoder
from asr_service.model.weights import Affine, EncoderWeights, LayerWeights, StageWeights
from tests.support.tile_units import TILES

# The first step of each kind compiles all layers: half a minute where nothing else runs.
pytestmark = pytest.mark.timeout(900)
D, HEADS, CHANNELS, KERNEL = 96, 4, 32, 9


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


def _differences(chunk: int, size: int, dtype: torch.dtype, tiles: TileUnit) -> list[float]:
    """Relative distance of the two steps' outputs, over streams of different ages in changing batches."""
    plan = ChunkPlan(160, 400, 8, chunk, 70 // chunk * chunk)
    weights = _weights(plan)
    cpu = torch.device("cpu")
    rng = np.random.default_rng(3)
    found = []
    with torch.inference_mode():
        plain = TorchEncoder(weights, plan, size + 1, cpu, torch.float32)
        stack = CpuEncoder(weights, plan, size + 1, dtype, tiles)
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


@pytest.mark.parametrize("tiles", [pytest.param(NoTiles(0), id="no tiles"), *TILES])
@pytest.mark.parametrize(("chunk", "size"), [(1, 1), (1, FEW_ROWS), (2, 2), (2, 5), (2, 20), (14, 3)])
def test_fp32_few_rows_and_many_give_the_same(chunk: int, size: int, tiles: TileUnit) -> None:
    """Dots up to `FEW_ROWS` rows, tiles or panels beyond: streams that change between them notice nothing."""
    assert max(_differences(chunk, size, torch.float32, tiles)) < 2e-6


@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize(("chunk", "size"), [(1, 1), (2, 1), (2, 20), (14, 3)])
def test_bf16_tiles_are_close_for_any_number_of_rows(chunk: int, size: int, tiles: TileUnit) -> None:
    """One row, a part of a tile, several turns of 32 rows with a rest."""
    assert max(_differences(chunk, size, torch.bfloat16, tiles)) < 0.03

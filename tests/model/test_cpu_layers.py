"""The compiled layer stack against the same step in torch operations, on made-up weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.encoder import CpuEncoder
from asr_service.model.cpu_encoder.isa.tiles import EmulatedTiles, NoTiles, TileUnit
from asr_service.model.cpu_encoder.kernels.gemm_choice import FEW_ROWS
from asr_service.model.devices import cpu_has_bf16
from asr_service.model.torch_encoder.encoder import TorchEncoder
from tests.support.encoder_weights import made_up_weights
from tests.support.tile_units import TILES

# The first step of each kind compiles all layers: half a minute where nothing else runs.
pytestmark = pytest.mark.timeout(900)


def _differences(chunk: int, size: int, dtype: torch.dtype, tiles: TileUnit) -> list[float]:
    """Relative distance of the two steps' outputs, over streams of different ages in changing batches."""
    # Steps go twice around the ring of what attention sees, and emulated tiles, of which it has none, are slow.
    left = 28 if isinstance(tiles, EmulatedTiles) else 70
    plan = ChunkPlan(160, 400, 8, chunk, left // chunk * chunk)
    weights = made_up_weights(plan)
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
                torch.from_numpy(slots), torch.from_numpy(ages[slots]), None, torch.full((len(slots),), chunk),
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
    # From the same step in float64 ours is up to 2.0e-6 away, and torch's 1.0e-6 to 1.4e-6: it depends on its threads.
    assert max(_differences(chunk, size, torch.float32, tiles)) < 3e-6


# The subsampling's products are torch's, whichever unit the layers use.
@pytest.mark.skipif(not cpu_has_bf16(), reason="torch has no bf16 for this processor")
@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize(("chunk", "size"), [(1, 1), (2, 1), (2, 20), (14, 3)])
def test_bf16_tiles_are_close_for_any_number_of_rows(chunk: int, size: int, tiles: TileUnit) -> None:
    """One row, a part of a tile, several turns of 32 rows with a rest."""
    assert max(_differences(chunk, size, torch.bfloat16, tiles)) < 0.03

"""The Triton kernels of a GPU's step do what torch's operations do, in Triton's interpreter on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.torch_encoder import kernel_check
from asr_service.model.torch_encoder.encoder import TorchEncoder
from asr_service.model.torch_encoder.kernel_check import why_without_kernels
from asr_service.model.weights import EncoderWeights, read_encoder
from testbed.random_parts import random_parts
from testbed.shapes import SHAPES
from tests.model.interpreted import CASES
from tests.support.process import ROOT, clean_environment

pytest.importorskip("triton", reason="there is no Triton for this system")

CPU = torch.device("cpu")
# Of norms. In fp32 sums come in another order; in bf16 so do roundings, which have 8 bits.
MOST = {"float32": 1e-6, "bfloat16": 1e-2}


@pytest.fixture(scope="module")
def printed() -> list[Any]:
    """What the program prints: differences by case, then reasons."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.interpreted"],
        env=clean_environment(TRITON_INTERPRET="1"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def differences(printed: list[Any]) -> list[dict[str, float]]:
    """By case."""
    return printed[:-1]


def test_every_case_is_run(differences: list[dict[str, float]]) -> None:
    assert len(differences) == len(CASES)
    assert {context for _, context, _ in CASES} >= {(70, 13), (70, 6), (70, 1), (70, 0), (56, 3)}


def test_kernels_serve_if_they_do_what_torch_does(printed: list[Any]) -> None:
    in_fp32, in_bf16, wrong = printed[-1]
    assert in_fp32 == in_bf16 == ""
    assert "differs from torch's by" in wrong


@pytest.fixture
def tiny() -> tuple[EncoderWeights, ChunkPlan, int]:
    """Weights, plan and mels."""
    shape = SHAPES["tiny"]
    parts, _ = random_parts(shape, CPU)
    plan = ChunkPlan(160, 400, shape.subsampling, 2, 70)
    return read_encoder(parts.weights, parts.architecture.encoder, plan, shape.mels), plan, shape.mels


def test_where_kernels_do_not_run_the_reason_is_told(tiny: tuple[EncoderWeights, ChunkPlan, int]) -> None:
    """On a CPU, for which Triton has no compiler: outside of its interpreter."""
    assert why_without_kernels(*tiny, CPU, torch.float32, tf32=False)


def test_nan_of_one_step_is_not_forgotten_over_right_ones(
    tiny: tuple[EncoderWeights, ChunkPlan, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an encoder in the kernels' place whose first frames alone are spoiled, not its state."""

    class Spoiled(TorchEncoder):
        steps = 0

        def __init__(self, *args: Any, fused: bool, **options: Any) -> None:
            super().__init__(*args, **options)
            self.is_spoiled = fused

        def step(self, batch: Batch, mel: torch.Tensor) -> torch.Tensor:
            frames = super().step(batch, mel)
            if self.is_spoiled and not self.steps:
                frames = frames * torch.nan
            self.steps += 1
            return frames

    monkeypatch.setattr(kernel_check, "TorchEncoder", Spoiled)
    told = why_without_kernels(*tiny, CPU, torch.float32, tf32=False)
    assert told == "a step differs from torch's by nan of its norm"


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{s}-{c}-{d}" for s, c, d in CASES])
def test_a_fused_step_equals_one_of_torch_operations(differences: list[dict[str, float]], case: int) -> None:
    most = MOST[CASES[case][2]]
    assert set(differences[case]) == {"output", "_keys", "_values", "_context"}
    assert max(differences[case].values()) <= most, differences[case]

"""The Triton kernels of a GPU's step do what torch's operations do, in Triton's interpreter on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.model.interpreted import CASES
from tests.support.process import ROOT, clean_environment

pytest.importorskip("triton", reason="there is no Triton for this system")

# Of norms. In fp32 sums come in another order; in bf16 so do roundings, which have 8 bits.
MOST = {"float32": 1e-6, "bfloat16": 1e-2}


@pytest.fixture(scope="module")
def differences() -> list[dict[str, float]]:
    """What the program prints, by case."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.interpreted"],
        env=clean_environment(TRITON_INTERPRET="1"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_case_is_run(differences: list[dict[str, float]]) -> None:
    assert len(differences) == len(CASES)


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{s}-{c}-{d}" for s, c, d in CASES])
def test_a_fused_step_equals_one_of_torch_operations(differences: list[dict[str, float]], case: int) -> None:
    most = MOST[CASES[case][2]]
    assert set(differences[case]) == {"output", "_keys", "_values", "_context"}
    assert max(differences[case].values()) <= most, differences[case]

"""The tile unit's instructions are in the machine code, on machines that could not run them too."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

Counts = dict[str, dict[str, int]]

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="code for x86-64 is made on x86-64"
)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    """How often each instruction occurs in what is compiled for a Sapphire Rapids."""
    features = "amx-tile amx-bf16 avx512f avx512bw avx512vl avx512dq avx2 fma f16c bmi bmi2"
    env = os.environ | {
        "NUMBA_CPU_NAME": "sapphirerapids",
        "NUMBA_CPU_FEATURES": ",".join(f"+{f}" for f in features.split()),
        "NUMBA_CACHE_DIR": str(tmp_path_factory.mktemp("code")),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    program = Path(__file__).with_name("compile_for_amx.py")
    done = subprocess.run(
        [sys.executable, str(program)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: Counts = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("configure", {"ldtilecfg": 1}),
        ("release", {"tilerelease": 1}),
        ("zero", {"tilezero": 4}),
        ("store", {"tilestored": 4}),
        # One tile of rows, two of weights; two of rows.
        ("multiply_16", {"tileloadd": 3, "tdpbf16ps": 2}),
        ("multiply_32", {"tileloadd": 4, "tdpbf16ps": 4}),
        # Six times that, of which loading is saved where one side stays.
        ("multiply_parts_16", {"tileloadd": 3 + 2 + 1 + 2 + 1 + 1, "tdpbf16ps": 12}),
        ("multiply_parts_32", {"tileloadd": 4 + 2 + 2 + 2 + 2 + 2, "tdpbf16ps": 24}),
        ("start and stop", {"ldtilecfg": 1, "tilerelease": 1}),
    ],
)
def test_each_intrinsic_is_its_instruction(counts: Counts, function: str, expected: dict[str, int]) -> None:
    tiles = {name: n for name, n in counts[function].items() if name.startswith(("tile", "tdp", "ldtile"))}
    assert tiles == expected


@pytest.mark.parametrize("kind", ["gemm_bf16_amx", "gemm_fp32_amx"])
def test_products_on_tiles_use_tiles(counts: Counts, kind: str) -> None:
    assert {"tilezero", "tileloadd", "tdpbf16ps", "tilestored", "prefetcht1"} <= set(counts[kind])


@pytest.mark.parametrize("kind", ["gemm_bf16_amx", "gemm_fp32_amx", "gemm_fp32"])
def test_a_block_calls_nothing(counts: Counts, kind: str) -> None:
    """Neither functions nor Numba's counting of references to arrays, which threads would wait for each other at."""
    assert not [name for name in counts[kind] if name.startswith(("call", "lock"))]

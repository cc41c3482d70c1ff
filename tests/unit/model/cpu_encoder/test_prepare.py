"""What is compiled ahead is all that steps call."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch
from numba.core import event

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.encoder import CpuEncoder
from asr_service.model.cpu_encoder.machine_code import code_folder
from asr_service.model.cpu_encoder.precompile import compile_missing
from asr_service.model.cpu_encoder.prepare import prepare
from asr_service.model.devices import cpu_has_bf16
from tests.support.encoder_weights import made_up_weights
from tests.support.process import printed, run_python

pytestmark = pytest.mark.slow

PLANS = (ChunkPlan(160, 400, 8, 1, 70), ChunkPlan(160, 400, 8, 2, 70), ChunkPlan(160, 400, 8, 14, 70))


class Compilations(event.Listener):  # type: ignore[misc]
    """Names the functions that Numba compiles."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, event: event.Event) -> None:
        self.names.append(event.data["dispatcher"].py_func.__qualname__)

    def on_end(self, event: event.Event) -> None:
        pass


def step(encoder: CpuEncoder, plan: ChunkPlan, rows: int, *, masked: bool) -> torch.Tensor:
    """A first or, with masks, a last and shorter step of so many streams."""
    mels = torch.linspace(-1, 1, rows * plan.chunk_mels * 80).reshape(rows, plan.chunk_mels, 80)
    masks = None
    if masked:
        masks = [torch.ones(rows, plan.chunk_mels >> layer, dtype=torch.bool) for layer in range(4)]
        for mask in masks:
            mask[0, mask.shape[1] // 2 :] = False
    slots = torch.arange(rows)
    with torch.inference_mode():
        return encoder.step(
            Batch(slots, torch.zeros_like(slots), masks, torch.full_like(slots, plan.chunk_frames), True),
            mels,
        )


@pytest.mark.parametrize("width", [96, 80], ids=["compiled layers", "oneDNN's products"])
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(not cpu_has_bf16(), reason="torch has no bf16 for this processor"),
        ),
    ],
)
def test_after_it_steps_of_any_model_compile_nothing(
    width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare()
    monkeypatch.setattr("tests.support.encoder_weights.D", width)
    with event.install_listener("numba:compile", Compilations()) as compiled:
        for plan in PLANS:
            encoder = CpuEncoder(made_up_weights(plan), plan, 6, dtype)
            for rows in (1, 2, 6):
                for masked in (False, True):
                    assert torch.isfinite(step(encoder, plan, rows, masked=masked)).all()
    assert compiled.names == []


def test_looking_for_what_is_missing_leaves_the_streams_at_their_start() -> None:
    prepare()
    plan = PLANS[1]
    said: list[str] = []
    looked_at, untouched = (CpuEncoder(made_up_weights(plan), plan, 2, torch.float32) for _ in range(2))
    assert compile_missing([(looked_at, plan, 80)], said.append) == []
    assert said == []
    for masked in (False, True):
        both = [step(encoder, plan, 2, masked=masked) for encoder in (looked_at, untouched)]
        assert torch.equal(*both)


def test_where_all_is_there_no_compiler_is_imported() -> None:
    prepare()
    program = """
        import sys
        from asr_service.model.cpu_encoder.prepare import main
        main([])
        print(sorted({"torch", "numba", "llvmlite"} & set(sys.modules)))
    """
    assert printed("-c", textwrap.dedent(program)) == "[]"


def test_a_disk_without_room_is_told_and_not_taken_for_prepared(tmp_path: Path) -> None:
    """All but one function are there already, and that one cannot be written."""
    prepare()
    there = code_folder()
    assert there is not None
    folder = tmp_path / there.name
    folder.mkdir()
    for file in there.iterdir():
        if not file.name.startswith(("prepared-", "norm.norm-")):
            (folder / file.name).symlink_to(file)
    program = """
        import resource
        from asr_service.model.cpu_encoder.prepare import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        main([])
    """
    done = run_python("-c", textwrap.dedent(program), NUMBA_CACHE_DIR=tmp_path)
    assert done.returncode == 1
    assert f"some machine code could not be kept in {folder}" in done.stderr
    assert "machine code is not kept" in done.stderr
    assert not list(folder.glob("prepared-*"))


def test_a_kind_that_there_is_none_of_is_refused() -> None:
    done = run_python("-m", "asr_service.model.cpu_encoder.prepare", "x86-64-v9")
    assert done.returncode == 1
    assert "'x86-64-v9' should be all-kinds, x86-64-v4-amx, x86-64-v4, x86-64-v3, or left out" in done.stderr

"""The service, its bridge, clients and a real model without NeMo, which only its own step and comparisons need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

BLOCKED = """
import importlib, pkgutil, sys
from importlib.abc import MetaPathFinder

NEMO = ("nemo", "lightning", "pytorch_lightning", "omegaconf", "hydra", "librosa", "transformers")

class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NEMO:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
"""
IMPORT_ALL = """
def modules(package):
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not found.name.endswith("__main__"):
            yield found.name

packages = ("asr_common", "asr_service", "ws_bridge", "clients", "bench")
names = [name for package in packages for name in modules(package)]
for name in names:
    if name not in LEFT_OUT:
        importlib.import_module(name)
print(len(names))
"""
STEP = """
import numpy as np
from testbed.by_request import StepRequest, step
from asr_service.core.model_settings import ModelSettings
from asr_service.model import make_model

model = make_model(ModelSettings("demo", device="cpu", slots=2, threads=1))
samples = np.zeros(model.info.first_chunk_samples, np.float32)
print(step(model, [StepRequest(0, samples, True, False)])[0].frames, model.info.chunk_frames)
"""
MEASURED = """
import torch
import bench.engine as engine
from pathlib import Path
from testbed.random_file import write_random_file
from testbed.shapes import SHAPES

path = Path(sys.argv[1])
write_random_file(SHAPES["tiny"], path)
engine.random_model = lambda name: path
runs = engine.Runs("tiny", ["70,1"], [2], ["fp32"], 0.0)
for row in engine.measure(runs, torch.device("cpu"), lambda row: None):
    print(row.batch, row.step_ms > 0, row.nemo_step_ms, row.speedup)
"""
ASKED = """
from asr_service.core.errors import SettingsError
from asr_service.core.model_settings import ModelSettings
from asr_service.model import make_model

try:
    make_model(ModelSettings("demo", device="cpu", slots=2, threads=1, encoder="nemo"))
except SettingsError as refused:
    print(refused.field, refused.message)
"""
# They need PortAudio, or a package of a benchmark's own environment.
LEFT_OUT = ("clients.mic", "bench.peers_sherpa")


def python(*programs: str, arguments: tuple[str, ...] = ()) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join((BLOCKED, f"LEFT_OUT = {LEFT_OUT!r}", *programs)), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_everything_is_imported() -> None:
    assert int(python(IMPORT_ALL).splitlines()[-1]) > 100


@pytest.mark.usefixtures("compiled")
def test_a_model_is_read_and_steps() -> None:
    frames, chunk = python(STEP).split()
    assert frames == chunk == "2"


def test_nemos_own_step_says_which_extra_it_needs() -> None:
    told = python(ASKED)
    assert told.startswith(
        "ASR_ENCODER ASR_ENCODER=nemo: NeMo's own encoder step is needed, and NeMo is not installed"
    )
    assert "asr-service[nemo]" in told


@pytest.mark.usefixtures("compiled")
def test_the_benchmark_of_the_step_has_no_baseline_then(tmp_path: Path) -> None:
    assert python(MEASURED, arguments=(str(tmp_path / "tiny.nemo"),)) == "2 True None None"

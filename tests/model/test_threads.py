"""How many threads a step takes, and where."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr_service.core.cpus import usable_cpus
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.threads import FRAMES, Team, step_threads
from testbed.by_request import StepRequest, step
from tests.support.process import clean_environment


@pytest.fixture
def three() -> Iterator[None]:
    """Three threads are torch's number."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_a_number_that_is_set_is_taken_and_otherwise_one_for_each_cpu(three: None) -> None:
    assert step_threads(7) == 7
    assert step_threads() == min(3, usable_cpus().threads)


@pytest.mark.parametrize(("frames", "few"), [(1, 1), (FRAMES, 1), (2 * FRAMES, 2), (100 * FRAMES, 3)])
def test_few_frames_take_few_threads_but_for_what_is_done_together(
    three: None, frames: int, few: int
) -> None:
    team = Team()
    with team.apart(frames):
        assert torch.get_num_threads() == few
        with team.together():
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == few
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="a thread's time is read from /proc")
def test_no_other_thread_works_on_a_product_of_few_frames(three: None) -> None:
    """torch's products are MKL's, which has a number of threads of its own."""
    frame, weight = torch.randn(1, 640), torch.randn(1025, 640)
    with Team().apart(1):
        before = _cpu_ticks()
        while _cpu_ticks()[os.getpid()] < before[os.getpid()] + 20:
            for _ in range(100):
                torch.nn.functional.linear(frame, weight)
        used = {thread: ticks - before.get(thread, 0) for thread, ticks in _cpu_ticks().items()}
    mine = used.pop(os.getpid())
    assert sum(used.values()) < mine / 4, f"this thread took {mine} ticks, others {used}"


def _cpu_ticks() -> dict[int, int]:
    """Reads the CPU time of each of this process's threads, in the system's ticks."""
    ticks = {}
    for thread in Path("/proc/self/task").iterdir():
        fields = (thread / "stat").read_text().rpartition(")")[2].split()
        ticks[int(thread.name)] = int(fields[11]) + int(fields[12])
    return ticks


def test_a_step_that_fails_leaves_the_number_as_it_was(three: None) -> None:
    team = Team()
    with pytest.raises(ValueError, match="failed"), team.apart(1), team.together():
        raise ValueError("failed")
    assert torch.get_num_threads() == 3


def test_only_the_encoder_has_the_team(
    three: None, streaming: Callable[..., NemoStreamingModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = streaming("tiny", (70, 1), slots=2)
    seen: dict[str, int] = {}

    def noted(part: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def step_and_note(*arguments: Any) -> Any:
            seen[part] = torch.get_num_threads()
            return step(*arguments)

        return step_and_note

    for part in ("_features", "_encoder", "_decoder"):
        owner = getattr(model, part)
        monkeypatch.setattr(owner, "step", noted(part, owner.step))
    torch.set_num_threads(3)
    chunk = np.zeros(model.info.first_chunk_samples, np.float32)
    step(model, [StepRequest(slot, chunk, True, False) for slot in range(2)])
    assert seen == {"_features": 1, "_encoder": 3, "_decoder": 1}
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
@pytest.mark.parametrize("cores", [1, 2])
def test_a_step_takes_as_many_threads_as_the_process_has_cores(
    compiled: None, tiny_nemo: Path, cores: int
) -> None:
    """In a process of its own: it is when they come into the process that torch and Numba look for cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    program = (
        "import os, sys\n"
        "os.sched_setaffinity(0, map(int, sys.argv[2:]))\n"
        "import numpy as np\n"
        "from asr_service.core.cpus import usable_cpus\n"
        "from testbed.by_request import StepRequest, step\n"
        "from asr_service.core.model_settings import ModelSettings\n"
        "from asr_service.model import make_model\n"
        "model = make_model(ModelSettings(sys.argv[1], device='cpu', slots=1))\n"
        "chunk = np.zeros(model.info.first_chunk_samples, np.float32)\n"
        "step(model, [StepRequest(0, chunk, True, False)])\n"
        "import numba, torch\n"
        "print(usable_cpus().threads, torch.get_num_threads(), numba.get_num_threads())\n"
    )
    argv = [sys.executable, "-c", program, str(tiny_nemo), *map(str, allowed)]
    environment = clean_environment()
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    usable, of_torch, of_numba = map(int, done.stdout.split())
    assert usable <= len(allowed)
    # torch counts cores, of which each may be two that the system tells of.
    assert of_torch == of_numba <= usable <= 2 * of_torch

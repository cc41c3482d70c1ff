"""Fixtures for every test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

# Two cores are shared by test processes; more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from tests.support import workers
from tests.support.instruction_sets import NO_TILES, instruction_sets
from tests.support.process import ROOT, clean_environment

# A shell that runs the tests in the background has them, and all that they start, ignore Ctrl-C: programs that are
# tested with it would run on.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> workers.Shares:
    """Called where pytest runs with workers."""
    return workers.Shares(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a worker, tests are collected in the order in which they are handed out."""
    if workers.IS_WORKER:
        workers.longest_first(items)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The encoder step of CPUs lies compiled on disk, so that no test waits for that against a deadline."""
    command = [sys.executable, "-m", "asr_service.model.cpu_encoder.prepare"]
    workers.once(
        tmp_path_factory,
        "compiled",
        lambda: subprocess.run(command, cwd=ROOT, env=clean_environment(), check=True),
    )


@cache
def _built(shape: str) -> Any:
    import torch

    from testbed.models import SHAPES, build_model

    torch.set_num_threads(1)
    return build_model(SHAPES[shape])


@pytest.fixture(scope="session")
def nemo_model() -> Callable[[str], Any]:
    """Gives NeMo's model object of a named shape, with random weights.

    NeMo's import takes a quarter of a minute: tests of this fixture are in a share of their own (`workers.share`).
    """
    return _built


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the `.nemo` file of a named shape, as NeMo writes it; as for `nemo_model`."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def saved(shape: str) -> Path:
        path = folder / f"{shape}.nemo"
        _built(shape).save_to(str(path))
        return path

    return saved


@pytest.fixture(scope="session")
def tiny_nemo(model_file: Callable[[str], Path]) -> Path:
    """A `.nemo` file of the family with random weights, two layers."""
    return model_file("tiny")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which instruction sets compiled code was made for, and how many tests that left out."""
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.write_line(instruction_sets(sum(NO_TILES in str(r.longrepr) for r in skipped)))

"""The hub of these tests, and the folder that models are fetched into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fetching import COMMIT, CONTENT
from tests.support.hub import Repository, StandInHub


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    """A hub with the model org/model."""
    pytest.importorskip("huggingface_hub", reason="the model's packages are not installed: make setup")
    files = {"README.md": b"about it", "model.nemo": CONTENT}
    with StandInHub({"org/model": Repository(files, tags={"v1": COMMIT})}) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """HF_HOME, which is not there yet."""
    return tmp_path / "home"

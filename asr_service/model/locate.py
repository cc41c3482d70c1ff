"""Finds the file of the model that a setting names."""

from __future__ import annotations

from pathlib import Path

from asr_service.core.errors import ModelError

DEMO_MODEL = Path(__file__).parents[1] / "assets" / "demo.nemo"


def nemo_path(name: str) -> Path | None:
    """Returns the path of the `.nemo` file that a model's name means, which need not exist; None for a hub's model."""
    path = DEMO_MODEL if name == "demo" else Path(name).expanduser()
    return path if path.suffix == ".nemo" else None


def find_nemo_file(name: str) -> Path | None:
    """Finds the `.nemo` file that a model's name means; None if it names a model of a hub.

    Raises:
        ModelError: the name means a file that does not exist.
    """
    path = nemo_path(name)
    if path is not None and not path.is_file():
        raise ModelError(f"ASR_MODEL names a file that does not exist: {path}", field="ASR_MODEL")
    return path

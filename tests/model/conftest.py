"""Streaming models around the random weights that `tests/conftest.py` has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asr_service.core.model_settings import ModelSettings
from asr_service.model.reading import ModelParts, read_model
from asr_service.model.streaming import NemoStreamingModel


@pytest.fixture(scope="session")
def model_parts(model_file: Callable[[str], Path]) -> Callable[[str], ModelParts]:
    """Reads what the file of a named shape holds."""
    import torch

    return lambda shape: read_model(str(model_file(shape)), torch.device("cpu"))


@pytest.fixture(scope="session")
def streaming(compiled: None, model_parts: Callable[[str], ModelParts]) -> Callable[..., NemoStreamingModel]:
    """Builds the streaming model around a named shape."""
    import torch

    from asr_service.model.loading import assemble

    def make(
        shape: str, context: tuple[int, int], *, decoder: str = "rnnt", encoder: str = "fast", slots: int = 20
    ) -> NemoStreamingModel:
        return assemble(
            model_parts(shape),
            ModelSettings(name=shape, att_context=context, decoder=decoder, encoder=encoder),
            torch.device("cpu"),
            slots,
        )

    return make

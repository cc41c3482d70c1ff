"""Random-weight models, built once a session; one thread a step, since two cores share many test processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from asr_service.core.model_settings import ModelSettings
from asr_service.model.reading import ModelParts, read_model
from asr_service.model.streaming import NemoStreamingModel


@cache
def _built(shape: str) -> Any:
    import torch

    from testbed.models import SHAPES, build_model

    torch.set_num_threads(1)
    return build_model(SHAPES[shape])


@pytest.fixture(scope="session")
def nemo_model() -> Callable[[str], Any]:
    """Gives NeMo's model object of a named shape."""
    return _built


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the `.nemo` file of a named shape, as NeMo writes it."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def saved(shape: str) -> Path:
        path = folder / f"{shape}.nemo"
        _built(shape).save_to(str(path))
        return path

    return saved


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

"""Random-weight models, built once a session; one thread a step, since two cores share many test processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from asr_service.core.model_settings import ModelSettings
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
def streaming(compiled: None, nemo_model: Callable[[str], Any]) -> Callable[..., NemoStreamingModel]:
    """Builds the streaming model around a named shape."""
    import torch

    from asr_service.model.loading import assemble

    def make(
        shape: str, context: tuple[int, int], *, decoder: str = "rnnt", encoder: str = "fast", slots: int = 20
    ) -> NemoStreamingModel:
        return assemble(
            nemo_model(shape),
            ModelSettings(name=shape, att_context=context, decoder=decoder, encoder=encoder),
            torch.device("cpu"),
            slots,
        )

    return make

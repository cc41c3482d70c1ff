"""Routes of engines that were never started, for tests of what clients may ask for."""

from __future__ import annotations

from asr_service.core.model import ModelInfo
from asr_service.sessions.routes import Routes, Served


def serving(*infos: ModelInfo) -> Routes:
    """An engine for each of these models, under the model's name."""
    return Routes(Served(number, info.name, info) for number, info in enumerate(infos))

"""Starts the engine's process, before anything that only the front end needs is imported.

The two then import what they need at the same time, and neither keys nor certificates are in the engine's memory.
"""

from __future__ import annotations

from functools import partial

from asr_service.config import Settings
from asr_service.engine.client import EngineClient
from asr_service.engine.contract import EngineSettings
from asr_service.model import make_model


def fork_engine(settings: Settings) -> EngineClient:
    """Forks the engine's process, which makes its model at once. No other thread should run yet."""
    engine_settings = EngineSettings(
        max_batch=settings.max_batch,
        tick_s=settings.step_ms / 1000,
        probe=settings.max_streams is None,
        finalize_silence_ms=settings.finalize_silence_ms,
    )
    return EngineClient(partial(make_model, settings.model_settings), engine_settings)

"""Models behind the `StreamingModel` protocol. Importing this package is cheap: `make_model` brings torch and NeMo."""

from __future__ import annotations

from asr_service.core.model import StreamingModel
from asr_service.core.model_settings import ModelSettings
from asr_service.model.locate import find_nemo_file
from asr_service.model.look_ahead import choose_att_context
from asr_service.model.slot_budget import host_slots


def make_model(settings: ModelSettings) -> StreamingModel:
    """Makes the model that the settings name, with state for as many streams as they say.

    Raises:
        SettingsError: a value cannot be served; `field` names the environment variable.
        ModelError: the model cannot be read or cannot stream.
    """
    if settings.name == "null":
        from asr_service.model.null import ATT_CONTEXTS, FRAME_MS, NullModel

        context = choose_att_context(settings.att_context, ATT_CONTEXTS, FRAME_MS)
        return NullModel(slots=settings.slots or host_slots(), att_context=context)
    # A mistyped path is reported before NeMo is imported, which takes seconds.
    find_nemo_file(settings.name)
    from asr_service.model.loading import make_nemo_model

    return make_nemo_model(settings)

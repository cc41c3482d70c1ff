"""Models behind the `StreamingModel` protocol. Importing this package is cheap: `make_model` imports torch."""

from __future__ import annotations

from asr_service.core.model import StreamingModel
from asr_service.core.model_settings import ModelSettings
from asr_service.model.locate import find_model
from asr_service.model.look_ahead import choose_att_context
from asr_service.model.packages import check_installed, not_importable
from asr_service.model.slot_budget import host_slots
from asr_service.model.torch_import import calm_openmp, import_torch


def make_model(settings: ModelSettings) -> StreamingModel:
    """Makes the model that the settings name, with state for as many streams as they say.

    Raises:
        SettingsError: a value cannot be served; `field` names the environment variable.
        ModelError: the model cannot be read or cannot stream.
        ModelUnavailable: its hub is away, or the disk is full.
    """
    if settings.name == "null":
        from asr_service.model.null import ATT_CONTEXTS, FRAME_MS, NullModel

        context = choose_att_context(settings.att_context, ATT_CONTEXTS, FRAME_MS)
        slots = settings.slots or host_slots(sharers=settings.sharers)
        return NullModel(slots=slots, att_context=context)
    check_installed(settings.name)
    # Before torch is imported, which takes seconds: a mistyped path is reported at once, a hub's model is fetched.
    find_model(settings.name)
    calm_openmp()
    try:
        import_torch()
    # The latter where a library of its own is missing.
    except (ImportError, OSError) as error:
        raise not_importable(settings.name, "torch", error) from error
    from asr_service.model.loading import make_nemo_model

    return make_nemo_model(settings)

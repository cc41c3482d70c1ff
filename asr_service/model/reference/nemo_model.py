"""Reads a model through NeMo: for NeMo's own encoder step, and for what compares with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from asr_service.core.errors import ModelError, SettingsError, first_line
from asr_service.model.out_of_memory import is_out_of_memory
from asr_service.model.packages import why_not_nemo
from asr_service.model.torch_import import import_all_of_torch
from asr_service.observability.log import quiet_third_party


def read_nemo(path: Path, device: torch.device, why: str) -> Any:
    """Reads a model through NeMo.

    Args:
        path: of the `.nemo` file.
        device: where the model is wanted.
        why: what needs NeMo; begins the message if it is missing.

    Returns:
        NeMo's model object, in eval mode, in fp32.

    Raises:
        SettingsError: NeMo is not installed, or not for this Python.
        ModelError: NeMo cannot read the file.
    """
    quiet_third_party()
    import_all_of_torch()
    try:
        from nemo.collections.asr.models import ASRModel
    except ImportError as error:
        raise SettingsError(
            f"{why}: NeMo's own encoder step is needed, and NeMo is not installed. Install the extra nemo "
            "(pip install 'asr-service[nemo]')",
            field="ASR_ENCODER",
        ) from error
    if reason := why_not_nemo():
        raise SettingsError(f"{why}: NeMo's own encoder step is needed, and {reason}", field="ASR_ENCODER")
    # Once more, since NeMo sets up its own logging while it is imported.
    quiet_third_party()
    try:
        nemo = ASRModel.restore_from(str(path), map_location=device)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"ASR_MODEL: {path} cannot be read by NeMo: {first_line(error)}", field="ASR_MODEL"
        ) from error
    nemo.eval()
    nemo.requires_grad_(False)
    return nemo

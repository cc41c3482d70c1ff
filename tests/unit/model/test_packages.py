"""A model without the packages that it needs, or with some that are broken, is refused with a sentence."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

import asr_service.model
from asr_service.core.errors import SettingsError
from asr_service.core.model_settings import ModelSettings
from asr_service.model import make_model
from asr_service.model.packages import check_installed


def test_what_is_missing_is_named_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(module: str) -> ModuleSpec | None:
        return None if module in ("torch", "yaml") else ModuleSpec(module, None)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(SettingsError, match="ASR_MODEL=demo: recognition needs torch, pyyaml, not installed"):
        check_installed("demo")


@pytest.mark.parametrize(
    "error", [OSError("libcudart.so.13: cannot open shared object file"), ImportError("libcudart.so.13")]
)
def test_a_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def import_torch() -> None:
        raise error

    monkeypatch.setattr(asr_service.model, "import_torch", import_torch)
    with pytest.raises(
        SettingsError, match=r"torch is installed and cannot be imported \(libcudart"
    ) as refused:
        make_model(ModelSettings("demo", device="cpu", slots=1, threads=1))
    assert refused.value.field == "ASR_MODEL"

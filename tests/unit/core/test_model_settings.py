"""The one parser of `ASR_ATT_CTX`, and what the settings make of it."""

from __future__ import annotations

import pytest

from asr_service.config import read_settings
from asr_service.core.errors import SettingsError
from asr_service.core.model_settings import ModelSettings, parse_att_context


@pytest.mark.parametrize("text", ["70,13", "[70,13]", " [ 70 , 13 ] ", " 70, 13 "])
def test_an_attention_context_is_written_with_brackets_or_without(text: str) -> None:
    assert parse_att_context(text) == (70, 13)
    assert read_settings({"att_ctx": text}).model_settings.att_context == (70, 13)


@pytest.mark.parametrize("text", ["70", "", "70,1,1", "abc", "70;1", "[70,1", "70,1]", "70.0,1"])
def test_anything_else_is_told_what_is_right(text: str) -> None:
    with pytest.raises(ValueError, match="two whole numbers"):
        parse_att_context(text)
    with pytest.raises(SettingsError, match=r"--att-ctx=.*: should be two whole numbers"):
        read_settings({"att_ctx": text})


def test_without_settings_the_documented_ones_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ASR_MODEL", "ASR_ATT_CTX", "ASR_DECODER", "ASR_DEVICE", "ASR_MAX_STREAMS"):
        monkeypatch.delenv(variable, raising=False)
    name = "nvidia/stt_en_fastconformer_hybrid_large_streaming_multi"
    assert read_settings().model_settings == ModelSettings(name, None, None, None, "fp32", "fast", None, None)


def test_each_setting_of_the_model_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "MODEL": "demo",
        "ATT_CTX": "70,6",
        "DECODER": "CTC",
        "DEVICE": "cpu",
        "PRECISION": "bf16",
        "ENCODER": "nemo",
        "MAX_STREAMS": "3",
        "THREADS": "2",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"ASR_{name}", value)
    assert read_settings().model_settings == ModelSettings(
        "demo", (70, 6), "ctc", "cpu", "bf16", "nemo", 3, 2
    )

"""The one parser of `ASR_ATT_CTX`, and what the settings make of it."""

from __future__ import annotations

import pytest

from asr_service.config import Settings, read_settings
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


@pytest.mark.parametrize(
    ("text", "contexts"),
    [
        ("70,1", ((70, 1),)),
        ("70,1;70,13", ((70, 1), (70, 13))),
        (" [70,13] ;70, 0 ; ", ((70, 13), (70, 0))),
        (None, ()),
    ],
)
def test_several_look_aheads_keep_their_order(
    text: str | None, contexts: tuple[tuple[int, int], ...]
) -> None:
    settings = Settings(att_ctx=text)
    assert settings.att_contexts == contexts
    assert settings.model_settings.att_context == (contexts[0] if contexts else None)


@pytest.mark.parametrize("text", ["70,1;70,1", "70,1;70,6;56,1", "70,1;[70,1]"])
def test_a_look_ahead_is_named_once(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--att-ctx=.*: should name each look-ahead once.*1 frames"):
        read_settings({"att_ctx": text})


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("demo", ("demo",)),
        ("nvidia/a@main; /models/b c.nemo;null", ("nvidia/a@main", "/models/b c.nemo", "null")),
        ("demo;", ("demo",)),
    ],
)
def test_several_models_keep_their_order(text: str, models: tuple[str, ...]) -> None:
    settings = read_settings({"model": text})
    assert settings.models == models
    assert settings.model_settings.name == models[0]


@pytest.mark.parametrize(
    ("text", "says"), [(";", "should name a model"), ("a/b;demo; a/b", "each model once; a/b is there twice")]
)
def test_models_that_cannot_be_told_apart(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"--model={text}: .*{says}"):
        read_settings({"model": text})


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        (None, ()),
        ("cuda:1", ("cuda:1",)),
        ("cuda:0,cuda:1, cpu", ("cuda:0", "cuda:1", "cpu")),
        ("cpu,cpu", ("cpu", "cpu")),
    ],
)
def test_several_devices_keep_their_order(text: str | None, devices: tuple[str, ...]) -> None:
    settings = Settings(device=text)
    assert settings.devices == devices
    assert settings.model_settings.device == (devices[0] if devices else None)


@pytest.mark.parametrize("text", ["", ",", "cpu;cpu", "cuda:0,gpu", "cuda:-1", "cpu:0"])
def test_a_device_that_is_none(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--device=.*: should be cpu, cuda or cuda:N"):
        read_settings({"device": text})


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

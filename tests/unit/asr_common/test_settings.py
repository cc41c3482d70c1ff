"""Settings from both sources, their help and their errors."""

from __future__ import annotations

import argparse
from typing import Literal

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings

from asr_common.settings import CONFIG, BadSettings, add_options, describe, read_settings


class Example(BaseSettings):
    """As programs have them."""

    model_config = CONFIG

    port: int = Field(8080, ge=0, le=65535, description="100 % of where it listens.")
    bridge_ping_s: float = Field(
        20.0, ge=0.1, description="Seconds.", json_schema_extra={"group": "Pings", "shown": "often"}
    )
    bridge_form: Literal["text", "json"] = Field("text", description="How.")
    bridge_key: str | None = Field(None, description="None.")


IMPLIED = "bridge_"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="example", formatter_class=argparse.RawTextHelpFormatter)
    add_options(made, describe(Example, IMPLIED))
    return made


def test_options_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_PORT", "1")
    monkeypatch.setenv("ASR_BRIDGE_PING_S", "2")
    options = vars(parser().parse_args(["--port", "3"]))
    assert options == {"port": "3"}
    settings = read_settings(Example, options, IMPLIED)
    assert (settings.port, settings.bridge_ping_s) == (3, 2.0)


def test_help_says_what_every_setting_is() -> None:
    text = parser().format_help()
    for told in (
        "--port VALUE",
        "100 % of where it listens.",
        "[ASR_PORT, default: 8080]",
        "Pings:",
        "[ASR_BRIDGE_PING_S, default: often]",
        "--form text|json",
        "[ASR_BRIDGE_KEY, default: none]",
    ):
        assert told in text
    assert [doc.default for doc in describe(Example)] == ["8080", "often", "text", "none"]


def test_errors_have_a_line_each_that_names_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_PORT", "many")
    with pytest.raises(BadSettings) as bad:
        read_settings(Example, {"bridge_ping_s": "0"}, IMPLIED)
    first, second = str(bad.value).splitlines()
    assert first.startswith("ASR_PORT=many: should be a valid integer")
    assert second == "--ping-s=0: should be greater than or equal to 0.1"
    assert bad.value.field == "port"

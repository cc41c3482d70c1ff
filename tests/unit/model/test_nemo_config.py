"""Values of a model's configuration: what is read, and what is refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from asr_service.core.errors import DamagedModel, ModelError
from asr_service.model.nemo_file.config import MOST_CHARS, MOST_NUMBER, Section, read_config

WHERE = "m.nemo: model_config.yaml"
# Each line has ten times as many items as the one before it.
ALIASES = b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b", ".join([b"*%c" % (name - 1)] * 10)) for name in b"bcdefghijklm"
)


@pytest.mark.parametrize(
    "text",
    [b"x: 2024-99-99", b"x: 0b_", b"x: !!int ''", b"x: !!timestamp a", b"x: !!bool z", b"\xff\xfe\x00", b"a: b: c",
     b"? [a]\n: b", b"[" * 5000, b"a: &a {k: 1}\nb: {<<: [*a, *a]}", b"x: *y", b"- 1", b"", b"text"],
)  # fmt: skip
def test_what_is_no_plain_yaml(text: bytes) -> None:
    with pytest.raises(
        DamagedModel, match=rf"^ASR_MODEL: {WHERE}: it (is not plain YAML: |should be a mapping)"
    ):
        read_config(text, WHERE)


def test_aliases_make_no_long_message() -> None:
    config = read_config(ALIASES, WHERE)
    for ask in (config.integer, config.number, config.text, config.section, config.texts):
        with pytest.raises(
            ModelError, match=f"{WHERE}: m is .*; it should be|{WHERE}: m has .* among"
        ) as caught:
            ask("m")
        assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "text", [b"0x" + b"f" * 9000, b"1" + b":1" * 9000, b"1" + b":1" * 9000 + b".5", b"1" * 9000]
)
def test_long_numbers_are_not_counted(text: bytes) -> None:
    """To the base of 60, which YAML has, it would take minutes for a megabyte."""
    with pytest.raises(DamagedModel, match=f"a number of {len(text)} characters"):
        read_config(b"h: " + text, WHERE)
    assert read_config(b"h: [" + b"1," * 1000 + b"]", WHERE).get("h") == [1] * 1000


@pytest.mark.parametrize(
    ("values", "ask", "told"),
    [
        ({}, lambda s: s.integer("n"), "n is missing"),
        ({"n": True}, lambda s: s.integer("n"), "n is True; it should be a whole number, 1 or more"),
        ({"n": -1}, lambda s: s.integer("n", least=0), "n is -1; it should be a whole number, 0 or more"),
        ({"n": 10**30}, lambda s: s.integer("n"), f"n is 1000.*; it should be a whole number, 1 to {MOST_NUMBER}"),
        ({"n": float("nan")}, lambda s: s.number("n"), f"n is nan; it should be a number, {MOST_NUMBER} at most"),
        ({"n": float("-inf")}, lambda s: s.number("n"), "n is -inf; it should be a number"),
        ({"n": 10**400}, lambda s: s.number("n"), "n is 1000.*; it should be a number"),
        ({"n": "1.0"}, lambda s: s.number("n"), "n is '1.0'; it should be a number"),
        ({"n": "no"}, lambda s: s.flag("n", True), "n is 'no'; it should be true or false"),
        ({"n": 3}, lambda s: s.text("n"), "n is 3; it should be a text"),
        ({"n": "n" * (MOST_CHARS + 1)}, lambda s: s.text("n"), f"a text of at most {MOST_CHARS} characters"),
        ({"n": "abc"}, lambda s: s.texts("n"), "n is 'abc'; it should be a list of texts"),
        ({"n": ["a", 1]}, lambda s: s.texts("n"), r"n has 1 among its texts; it should be one \(in quotes\)"),
        ({"n": [1]}, lambda s: s.section("n"), r"n is \[1\]; it should be a mapping"),
        ({"n": {"m": {"k": 0}}}, lambda s: s.section("n").section("m").integer("k"), "n.m.k is 0; it should be"),
        ({"n": {False: 1}}, lambda s: list(s.section("n")), r"n: it has the name False; it should be a text"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(values: dict[str, Any], ask: Callable[[Section], object], told: str) -> None:
    with pytest.raises(ModelError, match=rf"^ASR_MODEL: {WHERE}: .*{told}") as caught:
        ask(Section(values, WHERE))
    assert caught.value.field == "ASR_MODEL" and not isinstance(caught.value, DamagedModel)


def test_what_is_missing_or_null_is_the_default() -> None:
    section = Section({"null": None, "here": 3}, WHERE)
    assert (
        section.integer("null", 5) == 5
        and section.integer("here", 5) == 3
        and section.number("none", 0.5) == 0.5
    )
    assert section.texts("none") == () and list(section.section("none")) == []
    assert section.given("null") and "null" not in section and "here" in section

"""Reads a model's configuration, and values out of it, each checked for its type when it is asked for."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from asr_service.core.errors import ModelError, first_line
from asr_service.model.out_of_memory import is_out_of_memory
from asr_service.model.refusals import cannot_be_served, damaged, wrong

MOST_NUMBER = 2**31 - 1
"""Largest whole number: no size or rate comes near it."""
MOST_CHARS = 1000
"""Most characters of a text."""
_SHOWN_CHARS = 60
_NEMO_CLASSES = "nemo.collections.asr."


class Section:
    """A mapping in a configuration.

    Values that are missing or null are the default that is given; those of another type are refused by their path.

    Args:
        values: the mapping.
        where: the file and its member, for messages.
        name: of the section with those that it lies in, such as "decoding.greedy"; "" for the whole configuration.
    """

    def __init__(self, values: Mapping[Any, Any], where: str, name: str = "") -> None:
        self._values = values
        self._where = where
        self._name = name

    @property
    def path(self) -> str:
        """File, member and name, for messages."""
        return f"{self._where}: {self._name}" if self._name else self._where

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        """Yields the names. Raises ModelError if one is no text, such as `no`, which YAML reads as false."""
        for name in self._values:
            if not isinstance(name, str):
                raise wrong(self.path, f"it has the name {shown(name)}; it should be a text (in quotes)")
            yield name

    def given(self, name: str) -> bool:
        """Returns whether a value is written down, even as null."""
        return name in self._values

    def get(self, name: str) -> Any:
        """Returns a value as it is, None if it is missing."""
        return self._values.get(name)

    def section(self, name: str) -> Section:
        """Returns the mapping of this name, an empty one if it is missing. Raises ModelError if it is no mapping."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(name, "a mapping")
        return Section(value or {}, self._where, self._named(name))

    def integer(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """Returns a whole number from `least` to `MOST_NUMBER`.

        Raises:
            ModelError: it is none, or missing without a default.
        """
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_NUMBER:
            most = f" to {MOST_NUMBER}" if isinstance(value, int) and value > MOST_NUMBER else " or more"
            raise self.wrong(name, f"a whole number, {least}{most}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a finite number. Raises ModelError if it is none, or missing without a default."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number")
        if not abs(value) <= MOST_NUMBER or not math.isfinite(value):
            raise self.wrong(name, f"a number, {MOST_NUMBER} at most")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Returns true or false. Raises ModelError if it is neither."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Returns a text. Raises ModelError if it is none or a very long one, or missing without a default."""
        value = self._value(name, default)
        if not isinstance(value, str) or len(value) > MOST_CHARS:
            raise self.wrong(name, f"a text of at most {MOST_CHARS} characters")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns a list of texts, empty if it is missing. Raises ModelError if it is none."""
        value = self._value(name, ())
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self.wrong(name, "a list of texts")
        for item in value:
            if not isinstance(item, str):
                raise wrong(
                    self._where,
                    f"{self._named(name)} has {shown(item)} among its texts; it should be one (in quotes)",
                )
        return tuple(value)

    def wrong(self, name: str, right: str) -> ModelError:
        """Returns the error that the value of this name is not what it should be."""
        return wrong(
            self._where, f"{self._named(name)} is {shown(self._values.get(name))}; it should be {right}"
        )

    def refused(self, reason: str) -> ModelError:
        """Returns the error that what is configured here cannot be run exactly, for this reason."""
        return cannot_be_served(self.path, reason)

    def _value(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is not None:
            return value
        if default is None:
            raise wrong(self._where, f"{self._named(name)} is missing")
        return default

    def _named(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name


# Characters of a number, a date and the like. YAML counts some numbers to the base of 60, digit by digit.
_MOST_DIGITS = 1000


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML that runs no code and does not grow: nested merge keys make millions of entries of a few bytes."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        if (
            isinstance(node, yaml.ScalarNode)
            and not node.tag.endswith(":str")
            and len(node.value) > _MOST_DIGITS
        ):
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value)} characters", node.start_mark
            )
        return super().construct_object(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "it merges mappings (<<)", key.start_mark)
        super().flatten_mapping(node)


def read_config(text: bytes, where: str) -> Section:
    """Reads a configuration.

    Args:
        text: in YAML.
        where: the file and its member, for messages.

    Raises:
        DamagedModel: it is not plain YAML, or no mapping.
    """
    try:
        values = yaml.load(text, _PlainLoader)
    # The reader hands on whatever Python raises at a value that it cannot make, such as the date 2024-99-99.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise damaged(where, f"it is not plain YAML: {first_line(error)}") from error
    if not isinstance(values, Mapping):
        raise damaged(where, "it should be a mapping")
    return Section(values, where)


def nemo_class(section: Section, name: str) -> str:
    """Returns which of NeMo's ASR classes a section names, without its module; any other's with it.

    Args:
        section: that has the name.
        name: of the value, "target" or "_target_".
    """
    target = section.text(name, "(missing)")
    return target.rpartition(".")[2] if target.startswith(_NEMO_CLASSES) else target


def shown(value: object) -> str:
    """Returns a value as messages show it: in short, since YAML's aliases make huge ones of a few bytes."""
    text = _SHORT.repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, _SHOWN_CHARS, _SHOWN_CHARS

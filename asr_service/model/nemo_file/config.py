"""Reads values out of a model's configuration, each checked for its type when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asr_service.core.errors import ModelError


class Section:
    """A mapping in a configuration.

    Values that are missing or null are the default that is given; those of another type are refused by their path.

    Args:
        values: the mapping.
        path: where it lies, such as "model_config.yaml: encoder", for messages.
    """

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        self._values = values
        self.path = path

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

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
            raise self._wrong(name, "a mapping")
        return Section(value or {}, f"{self.path}{'' if self.path.endswith(': ') else '.'}{name}")

    def integer(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """Returns a whole number. Raises ModelError if it is none, less than `least`, or missing without a default."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._wrong(name, f"a whole number, {least} or more")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a number. Raises ModelError if it is none, or missing without a default."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, "a number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Returns true or false. Raises ModelError if it is neither."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Returns a text. Raises ModelError if it is none, or missing without a default."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns a list of texts, empty if it is missing. Raises ModelError if it is none."""
        value = self._value(name, ())
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self._wrong(name, "a list of texts")
        return tuple(str(item) for item in value)

    def _value(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is not None:
            return value
        if default is None:
            raise ModelError(f"{self._named(name)} is missing", field="ASR_MODEL")
        return default

    def _wrong(self, name: str, right: str) -> ModelError:
        shown = repr(self._values.get(name))
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return ModelError(f"{self._named(name)} is {shown}; it should be {right}", field="ASR_MODEL")

    def _named(self, name: str) -> str:
        return f"{self.path}{'' if self.path.endswith(': ') else '.'}{name}"

"""Settings of a program: from variables of the environment and from options of the command line, which go before them.

A program's settings are a class of pydantic-settings with `CONFIG` as its `model_config`. Each is a field whose
description states what is traded; help, tables of the docs and error lines are made from the fields. A field may carry
the group it belongs to and its default in words, as `json_schema_extra={"group": ..., "shown": ...}`.

Options leave out a word that goes without saying on a program's own command line: with `implied` "bridge_" the option
of `bridge_ping_s` is `--ping-s`.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "ASR_"
CONFIG = SettingsConfigDict(
    env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", allow_inf_nan=False
)

_HELP_WIDTH = 78

Settings = TypeVar("Settings", bound=BaseSettings)


class BadSettings(Exception):
    """Settings that cannot be served: one line for each.

    Attributes:
        field: of the first one, "" if it is about none.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """One setting as its help shows it."""

    group: str
    field: str
    variable: str
    option: str
    default: str
    choices: tuple[str, ...]
    description: str


def variable(field: str) -> str:
    """Environment variable of a field."""
    return PREFIX + field.upper()


def option(field: str, implied: str = "") -> str:
    """Command line option of a field."""
    return "--" + field.removeprefix(implied).replace("_", "-")


def describe(settings: type[BaseSettings], implied: str = "") -> list[SettingDoc]:
    """Every setting in the order of declaration."""
    docs = []
    for name, field in settings.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        choices = getattr(field.annotation, "__args__", ()) if isinstance(field.default, str) else ()
        docs.append(
            SettingDoc(
                group=str(extra.get("group", "")),
                field=name,
                variable=variable(name),
                option=option(name, implied),
                default=str(extra.get("shown", "")) or _shown(field.default),
                choices=tuple(choices),
                description=field.description or "",
            )
        )
    return docs


def add_options(parser: argparse.ArgumentParser, docs: list[SettingDoc]) -> None:
    """Adds an option for each setting, grouped; every value is left to the settings to judge.

    The parser's formatter should be `RawTextHelpFormatter`. Options that are not given are not in its result.
    """
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for doc in docs:
        if doc.group not in groups:
            groups[doc.group] = parser.add_argument_group(doc.group)
        text = textwrap.wrap(doc.description, _HELP_WIDTH)
        text += [f"[{doc.variable}, default: {doc.default}]", " "]
        groups[doc.group].add_argument(
            doc.option,
            dest=doc.field,
            default=argparse.SUPPRESS,
            metavar="|".join(doc.choices) or "VALUE",
            help="\n".join(text).replace("%", "%%"),
        )


def read_settings(settings: type[Settings], options: Mapping[str, str], implied: str = "") -> Settings:
    """Settings from the environment; `options` (by field name) go before it.

    Raises:
        BadSettings: with one line for each value that cannot be, naming its variable or option and what would be right.
    """
    try:
        return settings(**dict(options))  # type: ignore[arg-type]  # options are fields, not its own parameters
    except ValidationError as error:
        items: list[dict[str, Any]] = [dict(item) for item in error.errors(include_url=False)]
        lines = [_error_line(item, options, implied) for item in items]
        raise BadSettings("\n".join(lines), field=_field(items[0])) from None


def _shown(default: object) -> str:
    if default is None or default == "":
        return "none"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _field(item: dict[str, Any]) -> str:
    """The field that an error of pydantic is about, which it may call by its variable."""
    return str(item["loc"][0]).lower().removeprefix(PREFIX.lower())


def _error_line(item: dict[str, Any], options: Mapping[str, str], implied: str) -> str:
    name = _field(item)
    said = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    where = option(name, implied) if name in options else variable(name)
    return f"{where}={item['input']}: {said}"

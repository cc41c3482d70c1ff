"""Chooses the language that a stream's model is told, or that its results name, from what a client asks for. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from asr_service.core.errors import InvalidArgument
from asr_service.core.model import ModelInfo

AUTO = "auto"
"""The prompt with which a model finds the language out by itself."""
# What clients call it.
_AUTOMATIC = frozenset({AUTO, "multi"})


def choose_language(wanted: str, info: ModelInfo, field: str = "language_code") -> str:
    """Chooses the language of a stream, in the model's own spelling.

    Case does not matter, `_` stands for `-`, and "multi" for "auto". A language that the model does not list by that
    name is looked up with fewer and fewer subtags ("es-MX": "es", as RFC 4647, section 3.4, has it), then by its
    primary subtag where that leaves no choice ("de-AT": "de-DE").

    Args:
        wanted: BCP-47 code, "auto", "multi", or "" for the default.
        info: of the model.
        field: what the client calls the field, for errors.

    Returns:
        One of the languages of `info.prompts`, "auto" included, for a model with prompts. For others one of
        `info.languages`, or what was wanted where they are not known. "" is the model's default: where nothing was
        wanted and it can do without, or "auto" of a model without prompts.

    Raises:
        InvalidArgument: the model does not know the language, or cannot do without being told one.
    """
    code = wanted.strip().replace("_", "-").casefold()
    if info.prompts:
        return _choose_prompt(code, wanted, info, field)
    if not code or code in _AUTOMATIC:
        return ""
    if not info.languages:
        return _bcp47(code)
    # A model without prompts does not hear the difference between en-US and en-GB.
    same = _primary(code)
    for language in (_lookup(code, info.languages), *info.languages):
        if _primary(language.casefold()) == same:
            return language
    raise InvalidArgument(f"{field} must be {_one_of(info.languages)}, not {wanted!r}", field=field)


def lists_language(wanted: str, info: ModelInfo) -> bool:
    """Returns whether a model says of itself that it recognizes a language, as `choose_language` reads the code.

    A model whose languages are not known says so of none, though it refuses none.
    """
    if not info.prompts and not info.languages:
        return False
    try:
        return choose_language(wanted, info) != ""
    except InvalidArgument:
        return False


def prompt_index(language: str, info: ModelInfo) -> int:
    """Returns the index of a language's prompt, -1 for a model without prompts. Raises as `choose_language` does."""
    if not info.prompts:
        return -1
    return dict(info.prompts)[choose_language(language, info) or AUTO]


def _choose_prompt(code: str, wanted: str, info: ModelInfo, field: str) -> str:
    names = [name for name, _ in info.prompts]
    if not code:
        if AUTO in names:
            return ""
        if len(names) == 1:
            return names[0]
        raise InvalidArgument(f"{field} must be {_one_of(names)}: this model has to be told", field=field)
    if found := _lookup(code, names):
        return found
    if code in _AUTOMATIC and AUTO in names:
        return AUTO
    same = [name for name in names if _primary(name.casefold()) == _primary(code)]
    if len({index for name, index in info.prompts if name in same}) == 1:
        return same[0]
    which = same if same else names
    raise InvalidArgument(f"{field} must be {_one_of(which)}, not {wanted!r}", field=field)


def _lookup(code: str, names: Iterable[str]) -> str:
    """Finds a code among names, else what is left of it without its last subtags; "" if there is nothing."""
    known = {name.replace("_", "-").casefold(): name for name in reversed(list(names))}
    while code and code not in known:
        code = code.rpartition("-")[0]
    return known.get(code, "")


def _primary(code: str) -> str:
    return code.replace("_", "-").partition("-")[0]


def _bcp47(code: str) -> str:
    """Spells a code in lower case as BCP-47 recommends: en-US, zh-Hant-TW (RFC 5646, section 2.1.1)."""
    first, *others = code.split("-")
    return "-".join([first, *(_spell_subtag(subtag) for subtag in others)])


def _spell_subtag(subtag: str) -> str:
    return {2: subtag.upper(), 4: subtag.title()}.get(len(subtag), subtag)


def _one_of(names: Iterable[str]) -> str:
    """Lists names in a sentence: "a", "a or b", "one of a, b, c"."""
    listed = list(dict.fromkeys(names))
    return " or ".join(listed) if len(listed) < 3 else f"one of {', '.join(listed)}"

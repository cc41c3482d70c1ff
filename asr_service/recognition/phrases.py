"""Boosted phrases: which of them can be served, and how a model spells them. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from asr_service.core.values import PhraseBoost
from asr_service.recognition.vocabulary import SPACE_MARK

# Unknown, control and byte pieces, and those that say something about the audio.
_SPECIAL = re.compile(rf"{SPACE_MARK}?<.+>")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_APOSTROPHES = str.maketrans("\u2018\u2019\u02bc", "'''")


@dataclass(frozen=True, slots=True)
class PhraseLimits:
    """Limits on the phrases of one stream.

    Attributes:
        groups: most groups of phrases; a message has room for millions.
        phrases: most phrases, over all groups.
        phrase_chars: most characters of one phrase.
        chars: most characters of all phrases together: what making a tree of them costs grows with it.
        min_boost: least boost of a group.
        max_boost: largest boost of a group.
    """

    groups: int
    phrases: int
    phrase_chars: int
    chars: int
    min_boost: float
    max_boost: float


@dataclass(frozen=True, slots=True)
class Spelling:
    """A phrase as a model would write it.

    Attributes:
        text: lower or upper case where the model knows only that, single spaces; "" if nothing is left.
        unwritable: characters that the model cannot write, each once, in order; they are missing in `text`.
    """

    text: str
    unwritable: str


class Alphabet:
    """The characters that a model's pieces are made of.

    Args:
        pieces: of the vocabulary, as SentencePiece writes them.
    """

    def __init__(self, pieces: tuple[str, ...]) -> None:
        plain = [piece for piece in pieces if not _SPECIAL.fullmatch(piece)]
        self._known = frozenset("".join(plain).replace(SPACE_MARK, ""))
        # Whatever has no piece is written in bytes.
        self._writes_all = any(_BYTE.fullmatch(piece) for piece in pieces)

    def spell(self, phrase: str) -> Spelling:
        """Spells a phrase in the model's characters.

        A character stays as it is where the model writes it, and is taken in the other case where it writes only that.
        A hyphen that the model does not write is a space; typographic apostrophes are plain ones.
        """
        text, unwritable = [], []
        for char in unicodedata.normalize("NFC", phrase).translate(_APOSTROPHES):
            if char.isspace():
                text.append(" ")
                continue
            for form in (char, char.lower(), char.upper()):
                if self._writes_all or self._known.issuperset(form):
                    text.append(form)
                    break
            else:
                if unicodedata.category(char) == "Pd":
                    text.append(" ")
                elif char not in unwritable:
                    unwritable.append(char)
        return Spelling(" ".join("".join(text).split()), "".join(unwritable))


@lru_cache(maxsize=4)
def alphabet(pieces: tuple[str, ...]) -> Alphabet:
    """Returns the alphabet of a vocabulary, which is made once."""
    return Alphabet(pieces)


def keep_servable(
    groups: Iterable[PhraseBoost], pieces: tuple[str, ...] | None, limits: PhraseLimits
) -> tuple[PhraseBoost, ...]:
    """Keeps the phrases that can be served, for protocols that refuse no phrases.

    Phrases that are empty, too long or unwritable are left out; boosts are brought into range. Nothing beyond the
    limits is looked at, and what is left out counts towards them: this runs on the event loop, and the client must not
    choose how long it takes.

    Args:
        groups: of the client's request.
        pieces: of the vocabulary, None before the model is made.
        limits: of the protocol.
    """
    known = alphabet(pieces) if pieces is not None else None
    count = chars = 0
    kept = []
    for group in islice(groups, limits.groups):
        phrases = []
        for phrase in islice(group.phrases, limits.phrases - count):
            count += 1
            if len(phrase) > limits.phrase_chars or chars + len(phrase) > limits.chars:
                continue
            chars += len(phrase)
            spelling = known.spell(phrase) if known else Spelling(phrase.strip(), "")
            if spelling.text and not spelling.unwritable:
                phrases.append(phrase)
        if phrases:
            boost = min(max(group.boost, limits.min_boost), limits.max_boost)
            kept.append(PhraseBoost(tuple(phrases), boost))
    return tuple(kept)

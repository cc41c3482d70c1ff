"""What the pieces of a model's vocabulary stand for: text, marks, detected languages, ends of utterances. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

SPACE_MARK = "\u2581"
"""How SentencePiece writes a space in a piece, and thus a word's start."""

# SentencePiece's surface for an unknown piece.
_UNKNOWN = " \u2047 "
# Control pieces, which are decoded to nothing.
_CONTROL = frozenset({"<s>", "</s>", "<pad>"})
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# The language that a model says it has heard, as NVIDIA's multilingual models write it: <en-US>.
_LANGUAGE = re.compile(rf"{SPACE_MARK}?<([a-z]{{2,3}}-[A-Z]{{2}})>")
# End of an utterance and of a backchannel ("uh-huh"), as NVIDIA's models for voice agents write them.
_END = re.compile(rf"{SPACE_MARK}?<EO[UB]>")

# Pieces in which NeMo does not look for marks.
_UNJOINED = re.compile(rf"\[.*\]$|<.*>$|##|{SPACE_MARK}")

# Marks that follow what they belong to.
_CLOSING = ".,?!;:\u2026\u3002\u3001\uff0c\uff1f\uff01\u061f\u060c\u061b\u0964"
# Marks that open in one language and close in another.
_QUOTES = '"\u201c\u201d\u201e\u00ab\u00bb'
# Marks of sentences; an apostrophe is part of its word.
_MARKS = _CLOSING + _QUOTES + "\u00bf\u00a1"


@lru_cache(maxsize=8)
def ends_utterances(pieces: tuple[str, ...]) -> bool:
    """Whether a model with these pieces may say that an utterance is over."""
    return any(_END.fullmatch(piece) for piece in pieces)


class Vocabulary:
    """What each token id adds to a text; made once for a model.

    Follows `SentencePieceProcessor::Decode` (google/sentencepiece, src/sentencepiece_processor.cc) with its default
    `remove_extra_whitespaces`: a space mark at the text's start is dropped, runs of byte pieces are read as UTF-8 with
    one replacement character for each byte that is none. Pieces that say something about the audio (the language, the
    end of an utterance) are no text. As in NeMo (nemo/collections/asr/parts/submodules/rnnt_decoding.py,
    `decode_tokens_to_str_with_strip_punctuation`), one space is dropped before a mark that any piece has which does not
    begin with a space; here only before marks that close something, and not before an apostrophe or a dash.

    Args:
        pieces: by token id, as SentencePiece writes them.

    Attributes:
        surface: text of each token; "" for byte pieces and those that are no text.
        byte: value of each byte piece, -1 for other pieces.
        language: BCP-47 code that the token says was heard, "" for other tokens.
        ends_utterance: whether the model says with the token that the utterance is over.
        is_text: whether the token is part of a text.
        starts_word: whether a word begins with the token, or a mark that opens one.
        is_spoken: whether the token is part of a word: neither a space nor a mark alone.
        joins: marks before which a space is dropped.
        strippable: whether the token's space is dropped at the start of a text.
        punctuates: whether any token holds a punctuation mark or a capital.
    """

    def __init__(self, pieces: tuple[str, ...]) -> None:
        self.language = tuple(tagged_language(piece) for piece in pieces)
        self.ends_utterance = tuple(_END.fullmatch(piece) is not None for piece in pieces)
        self.is_text = tuple(
            not (language or ends or piece in _CONTROL)
            for piece, language, ends in zip(pieces, self.language, self.ends_utterance, strict=True)
        )
        found = [_BYTE.fullmatch(piece) for piece in pieces]
        self.byte = tuple(int(match[1], 16) if match else -1 for match in found)
        self.surface = tuple(
            _surface(piece) if is_text and byte < 0 else ""
            for piece, is_text, byte in zip(pieces, self.is_text, self.byte, strict=True)
        )
        self.joins = frozenset(
            char for piece in pieces if not _UNJOINED.match(piece) for char in piece if char in _CLOSING
        )
        self.strippable = tuple(text.startswith(" ") and text != _UNKNOWN for text in self.surface)
        self.starts_word = tuple(
            text.startswith(" ") and (text == " " or not belongs_before(text[1:], after_space=True))
            for text in self.surface
        )
        self.is_spoken = tuple(
            byte >= 0 or bool(text.strip(_MARKS + " "))
            for text, byte in zip(self.surface, self.byte, strict=True)
        )
        self.punctuates = any(text != text.lower() or set(text) & set(_MARKS) for text in self.surface)


def tagged_language(piece: str) -> str:
    """Returns the language that a piece says was heard, as a BCP-47 code; "" for any other piece."""
    match = _LANGUAGE.fullmatch(piece)
    return match[1] if match else ""


def belongs_before(text: str, *, after_space: bool) -> bool:
    """Tells whether a text is nothing but marks that belong to what came before it.

    Args:
        text: without the space before it.
        after_space: whether there was one: a quotation mark after a space opens what follows.
    """
    return not text.strip(_CLOSING + " " if after_space else _CLOSING + _QUOTES + " ")


def unpunctuated(text: str) -> str:
    """Returns a text in lower case without the marks around its words; those inside one stay (3.5, 10:30, o'clock)."""
    return " ".join(filter(None, (word.strip(_MARKS).lower() for word in text.split(" "))))


def _surface(piece: str) -> str:
    """Returns the text that a piece stands for."""
    return _UNKNOWN if piece == "<unk>" else piece.replace(SPACE_MARK, " ")

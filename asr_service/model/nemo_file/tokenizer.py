"""Reads a model's tokenizer: its pieces by token id, and how it spells a text in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from asr_service.core.errors import first_line
from asr_service.model.nemo_file.archive import NemoFile
from asr_service.model.nemo_file.config import Section
from asr_service.model.refusals import damaged
from asr_service.recognition.vocabulary import SPACE_MARK

UNKNOWN = -1
"""The token of what a tokenizer has no piece for."""


class Tokenizer(Protocol):
    """The tokens of a model."""

    @property
    def pieces(self) -> tuple[str, ...]:
        """The pieces by token id, as SentencePiece writes them."""
        ...

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of its parts, BCP-47, if each language has one."""
        ...

    def encode(self, text: str) -> Sequence[int]:
        """Returns the tokens of a text, with `UNKNOWN` for what has no piece."""
        ...


class SentencePieceTokenizer:
    """A SentencePiece model, of pieces by BPE or Unigram.

    Args:
        model: the bytes of its file.
        where: the file's name, for messages.

    Raises:
        DamagedModel: the bytes are no such model.
    """

    languages: tuple[str, ...] = ()

    def __init__(self, model: bytes, where: str) -> None:
        # Imported here: a model of characters needs none.
        from sentencepiece import SentencePieceProcessor

        # Its library takes no bytes for no model to read.
        if not model:
            raise damaged(where, "it is empty; it should be a SentencePiece model")
        try:
            self._processor = SentencePieceProcessor(model_proto=model)
            self.pieces = tuple(
                self._processor.id_to_piece(token) for token in range(self._processor.get_piece_size())
            )
        except Exception as error:
            raise damaged(where, f"it is no SentencePiece model: {first_line(error)}") from error
        if not self.pieces:
            raise damaged(where, "it is a SentencePiece model without pieces")
        self._unknown = self._processor.unk_id()

    def encode(self, text: str) -> Sequence[int]:
        """See `Tokenizer.encode`."""
        return [UNKNOWN if token == self._unknown else token for token in self._processor.encode(text)]


class AggregateTokenizer:
    """Several tokenizers, one for each language; the tokens of each follow those of the one before it.

    Args:
        parts: (language, tokenizer), in the order of their tokens.
    """

    def __init__(self, parts: Sequence[tuple[str, Tokenizer]]) -> None:
        self._parts = [tokenizer for _, tokenizer in parts]
        self.pieces = tuple(piece for tokenizer in self._parts for piece in tokenizer.pieces)
        self.languages = tuple(language for language, _ in parts)

    def encode(self, text: str) -> Sequence[int]:
        """Returns the tokens of the first part that has pieces for all of the text, `UNKNOWN` alone if none has."""
        offset = 0
        for tokenizer in self._parts:
            tokens = tokenizer.encode(text)
            if UNKNOWN not in tokens:
                return [offset + token for token in tokens]
            offset += len(tokenizer.pieces)
        return [UNKNOWN]


@dataclass(frozen=True)
class CharacterTokenizer:
    """A model of characters: each token is a label."""

    pieces: tuple[str, ...]
    languages: tuple[str, ...] = ()

    def encode(self, text: str) -> Sequence[int]:
        """See `Tokenizer.encode`."""
        tokens = {piece: token for token, piece in enumerate(self.pieces)}
        return [tokens.get(SPACE_MARK if char == " " else char, UNKNOWN) for char in text]


def read_tokenizer(file: NemoFile) -> Tokenizer:
    """Reads the tokenizer of a model, which may also be a plain list of characters.

    Raises:
        ModelError: it is of a kind that is not known, or its files are not there.
    """
    if "tokenizer" in file.config:
        return _read_section(file, file.config.section("tokenizer"))
    labels = file.config.texts("labels") or file.config.section("decoder").texts("vocabulary")
    if not labels:
        raise file.config.refused("it has neither a tokenizer nor labels")
    if any(len(label) != 1 for label in labels):
        raise file.config.refused("it has labels that are no single characters")
    return CharacterTokenizer(tuple(SPACE_MARK if label == " " else label for label in labels))


def _read_section(file: NemoFile, section: Section) -> Tokenizer:
    """Reads a tokenizer that is configured in a section."""
    kind = section.text("type").lower()
    if "custom_tokenizer" in section:
        raise section.refused("it has a class of its own, whose pieces are not known here")
    if kind == "agg":
        languages = section.section("langs")
        parts = [(language, _read_section(file, languages.section(language))) for language in languages]
        if not parts:
            raise section.refused("it lists no languages")
        return AggregateTokenizer(parts)
    if kind != "bpe":
        raise section.refused(f"it is of type {kind!r}; SentencePiece models (bpe) and characters are served")
    named = section.text("model_path")
    return SentencePieceTokenizer(file.artifact(named), f"{file.path}: {named}")

"""Small models of SentencePiece, as tokenizers have them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import sentencepiece as spm


def train(lines: Sequence[str], **options: Any) -> spm.SentencePieceProcessor:
    """Trains one on these lines; `options` are the trainer's, such as `model_type` and `vocab_size`, at the most."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        # There are few lines, and pieces are found by how often they occur.
        sentence_iterator=iter(list(lines) * 20),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


def pieces_of(processor: spm.SentencePieceProcessor) -> tuple[str, ...]:
    """All pieces by id, as a vocabulary is made of."""
    return tuple(processor.id_to_piece(token) for token in range(processor.get_piece_size()))

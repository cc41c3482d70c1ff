"""The SentencePiece vocabulary: byte-pair pieces trained on the grammar's text and on every word, or a model's own."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path

import sentencepiece

from demo_model import grammar


def train_tokenizer(folder: Path, pieces: int, seed: int, sentences: int = 30000) -> Path:
    """Write `tokenizer.model` and `vocab.txt` (one piece a line, as NeMo wants it) under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{seed}/tokenizer")
    vocab = grammar.vocabulary()
    lines = [grammar.sentence(rng) for _ in range(sentences)]
    # Random sequences keep rare words from being spelt in single letters.
    lines += [grammar.random_words(rng, vocab, 3, 8) for _ in range(sentences // 2)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), vocab_size=pieces, model_type="bpe",
        character_coverage=1.0, bos_id=-1, eos_id=-1, unk_id=0, num_threads=1, minloglevel=2,
    )  # fmt: skip
    model = folder / "tokenizer.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    names = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    (folder / "vocab.txt").write_text("\n".join(names[1:]) + "\n", encoding="utf-8")
    return model


def unpack_tokenizer(nemo: Path, folder: Path) -> Path:
    """Write the tokenizer of a `.nemo` under `folder` as `train_tokenizer` names its files; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(nemo) as archive:
        for known in ("tokenizer.model", "tokenizer.vocab", "vocab.txt"):
            # NeMo puts a random word before each name.
            (name,) = (name for name in archive.getnames() if name.endswith(known))
            file = archive.extractfile(name)
            assert file is not None
            (folder / known).write_bytes(file.read())
    return folder

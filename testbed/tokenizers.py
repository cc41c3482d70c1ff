"""Makes tokenizers on made-up words, in the files that NeMo expects of each kind."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.shapes import Shape

SPACE = "\u2581"
"""How SentencePiece writes a space."""

# A SentencePiece piece of this type stands for itself in a text, and is never split.
_USER_DEFINED = 4


def labels(shape: Shape) -> list[str]:
    """Returns the vocabulary of a character model: space, letters and an apostrophe, as in NeMo's recipes."""
    found = [" ", *string.ascii_lowercase, "'"]
    if len(found) != shape.pieces:
        raise ValueError(f"a character model has {len(found)} pieces, not {shape.pieces}")
    return found


def write_tokenizers(shape: Shape, folder: Path, seed: int) -> dict[str, Any]:
    """Writes the tokenizer of a shape, or its tokenizers, into a folder; returns the configuration that names them."""
    if shape.tokenizer != "aggregate":
        _write_sentencepiece(shape, folder, seed)
        return {"dir": str(folder), "type": "bpe"}
    languages = {}
    for number, language in enumerate(shape.languages):
        own = folder / language
        own.mkdir()
        _write_sentencepiece(shape, own, seed + number)
        languages[language] = {"dir": str(own), "type": "bpe"}
    return {"type": "agg", "langs": languages}


def _words(number: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    syllables = [c + v + e for c in "bdfgklmnprstvz" for v in "aeiou" for e in ("", "n", "r", "s", "l")]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(number)]


def _write_sentencepiece(shape: Shape, folder: Path, seed: int) -> None:
    """Trains a SentencePiece model of so many pieces; its tags come first, its end tokens last."""
    import sentencepiece

    tags = [f"<{language}>" for language in shape.languages] if shape.tokenizer != "aggregate" else []
    # A large vocabulary has to find its pieces in the text.
    words = _words(max(4000, 8 * shape.pieces), seed)
    rng = random.Random(seed)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(" ".join(rng.choices(words, k=8)) for _ in range(len(words))))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=shape.pieces - len(shape.end_tokens),
        model_type="unigram" if shape.tokenizer == "unigram" else "bpe", character_coverage=1.0, bos_id=-1, eos_id=-1,
        unk_id=0, byte_fallback=shape.byte_fallback, user_defined_symbols=tags, minloglevel=2,
    )  # fmt: skip
    _append(folder, shape.end_tokens)
    vocab = (folder / "tokenizer.vocab").read_text().splitlines()
    (folder / "vocab.txt").write_text("\n".join(line.split("\t")[0] for line in vocab))


def _append(folder: Path, pieces: Sequence[str]) -> None:
    """Appends pieces to a trained model, as fine-tunes do to keep the ids of all others."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString((folder / "tokenizer.model").read_bytes())
    for piece in pieces:
        model.pieces.add(piece=piece, score=0.0, type=_USER_DEFINED)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    with (folder / "tokenizer.vocab").open("a") as vocab:
        vocab.writelines(f"{piece}\t0\n" for piece in pieces)


def call_wordpiece(model: Any) -> None:
    """Makes a model's configuration, in place, that of one with a WordPiece tokenizer, as NeMo saves it.

    NeMo makes such a tokenizer only with files from the hub, so the model itself keeps what it has.
    """
    from omegaconf import open_dict

    for name in ("model_path", "spe_tokenizer_vocab"):
        model.artifacts.pop(f"tokenizer.{name}")
        with open_dict(model.cfg):
            model.cfg.tokenizer.pop(name, None)
    model.cfg.tokenizer.type = "wpe"

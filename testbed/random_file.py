"""Writes a `.nemo` file of random weights without NeMo: for measurements where NeMo is not installed, and in seconds.

Every tensor has the name and the shape that NeMo's class saves, so that NeMo reads the file too; see
`testbed.random_parts` for what they are.

    python -m testbed.random_file large build/large.nemo
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from testbed.command_line import write_as_asked
from testbed.random_parts import random_config, random_parts
from testbed.shapes import Shape
from testbed.tokenizers import write_tokenizers

_CONFIG, _WEIGHTS = "model_config.yaml", "model_weights.ckpt"


def write_random_file(shape: Shape, path: Path, seed: int = 0) -> None:
    """Writes a model of this shape, whose tokenizer is a single SentencePiece model.

    Args:
        shape: of the model.
        path: of the `.nemo` file.
        seed: of the weights.
    """
    if shape.tokenizer not in ("bpe", "unigram"):
        raise ValueError(f"the tokenizer is {shape.tokenizer}: bpe or unigram")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write_tokenizers(shape, Path(folder), seed)
        files = {
            name: (Path(folder) / name).read_bytes()
            for name in ("tokenizer.model", "tokenizer.vocab", "vocab.txt")
        }
    tokenizer |= {
        "model_path": "nemo:tokenizer.model",
        "vocab_path": "nemo:vocab.txt",
        "spe_tokenizer_vocab": "nemo:tokenizer.vocab",
    }
    _, weights = random_parts(shape, torch.device("cpu"), seed)
    _write(path, random_config(shape, tokenizer), weights, files)


def _write(path: Path, config: dict[str, Any], weights: dict[str, Tensor], files: dict[str, bytes]) -> None:
    saved = io.BytesIO()
    torch.save(weights, saved)
    members = {
        _CONFIG: yaml.safe_dump(config, allow_unicode=True).encode(),
        _WEIGHTS: saved.getvalue(),
        **files,
    }
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    write_as_asked(__doc__, write_random_file)

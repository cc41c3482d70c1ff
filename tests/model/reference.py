"""The words as NeMo itself finds them: whole-file features, offline encoder, greedy decoding over all frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def features(model: Any, samples: npt.NDArray[np.float32]) -> torch.Tensor:
    """NeMo's preprocessor on the whole waveform, valid frames only, [mels, frames]."""
    featurizer = model.preprocessor.featurizer
    featurizer.dither, featurizer.pad_to = 0.0, 0
    with torch.inference_mode():
        if not len(samples):
            return torch.zeros(featurizer.nfilt, 0)
        mel, length = model.preprocessor(
            input_signal=torch.tensor(samples)[None], length=torch.tensor([len(samples)])
        )
    valid: torch.Tensor = mel[0, :, : int(length[0])]
    return valid


def encode(
    model: Any, samples: npt.NDArray[np.float32], context: tuple[int, int], prompt: int = -1
) -> torch.Tensor:
    """Offline encoder output under one look-ahead, conditioned on a language prompt if the model takes any.

    Returns:
        [frames, d_model], what the model's heads are given.
    """
    model.encoder.set_default_att_context_size(list(context))
    mel = features(model, samples)
    if mel.shape[1] == 0:
        return torch.zeros(0, model.encoder.d_model)
    forward = {"processed_signal": mel[None], "processed_signal_length": torch.tensor([mel.shape[1]])}
    if prompt >= 0:
        forward["prompt_indices"] = torch.tensor([prompt])
    with torch.inference_mode():
        # A CTC model's own forward goes on to its head.
        if hasattr(model, "joint"):
            encoded, length = model.forward(**forward)
        else:
            encoded, length = model.encoder(audio_signal=mel[None], length=forward["processed_signal_length"])
    frames: torch.Tensor = encoded[0, :, : int(length[0])].t()
    return frames


def tokens(
    model: Any, samples: npt.NDArray[np.float32], context: tuple[int, int], decoder: str, prompt: int = -1
) -> list[int]:
    """Tokens of NeMo's own greedy decoding of the offline encoder's output."""
    (said,) = decode(model, [encode(model, samples, context, prompt)], decoder)
    return said


def decode(model: Any, encoded: Sequence[torch.Tensor], decoder: str) -> list[list[int]]:
    """Tokens of NeMo's own greedy decoding of recordings of [frames, d_model], in one batch of NeMo's."""
    said: list[list[int]] = [[] for _ in encoded]
    rows = [row for row, frames in enumerate(encoded) if len(frames)]
    if not rows:
        return said
    batch = torch.nn.utils.rnn.pad_sequence([encoded[row] for row in rows], batch_first=True).transpose(1, 2)
    lengths = torch.tensor([len(encoded[row]) for row in rows])
    with torch.inference_mode():
        if decoder == "rnnt":
            hypotheses = model.decoding.decoding(
                encoder_output=batch, encoded_lengths=lengths, partial_hypotheses=None
            )[0]
            for row, hypothesis in zip(rows, hypotheses, strict=True):
                said[row] = [int(t) for t in hypothesis.y_sequence]
            return said
        # The head of a model that has no other is its decoder.
        head = getattr(model, "ctc_decoder", None) or model.decoder
        logits = head(encoder_output=batch)
    blank = logits.shape[-1] - 1
    for row, best, length in zip(rows, logits.argmax(dim=-1).tolist(), lengths, strict=True):
        best = best[: int(length)]
        said[row] = [
            t for t, before in zip(best, [blank, *best[:-1]], strict=True) if t not in (before, blank)
        ]
    return said


def distance(mine: torch.Tensor, expected: torch.Tensor) -> float:
    """How far frames are from the expected ones, as many of them: at the most, relative to the largest."""
    assert mine.shape == expected.shape
    return float((mine - expected).abs().max() / expected.abs().max()) if len(mine) else 0.0


def are_nemos(model: Any, said: list[int], expected: list[int], mine: torch.Tensor, decoder: str) -> bool:
    """Whether tokens are NeMo's own of a recording, for which NeMo itself has the `expected` ones.

    Random weights hold two tokens for equally likely now and then, and the last bits of the frames, which are another
    processor's others, say which comes. There NeMo has to say the same of the frames `mine`, which the caller has found
    to be as good as NeMo's (`distance`).
    """
    return said == expected or [said] == decode(model, [mine], decoder)

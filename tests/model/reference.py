"""The words as NeMo itself finds them: whole-file features, offline encoder, greedy decoding over all frames."""

from __future__ import annotations

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
            input_signal=torch.from_numpy(samples)[None], length=torch.tensor([len(samples)])
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
    return decode(model, encode(model, samples, context, prompt), decoder)


def decode(model: Any, encoded: torch.Tensor, decoder: str) -> list[int]:
    """Tokens of NeMo's own greedy decoding of [frames, d_model]."""
    if not len(encoded):
        return []
    length = torch.tensor([len(encoded)])
    with torch.inference_mode():
        if decoder == "rnnt":
            hypotheses = model.decoding.decoding(
                encoder_output=encoded.t()[None], encoded_lengths=length, partial_hypotheses=None
            )[0]
            return [int(t) for t in hypotheses[0].y_sequence]
        # The head of a model that has no other is its decoder.
        head = getattr(model, "ctc_decoder", None) or model.decoder
        logits = head(encoder_output=encoded.t()[None])[0]
    best = logits.argmax(dim=-1).tolist()
    blank = logits.shape[-1] - 1
    return [t for t, before in zip(best, [blank, *best[:-1]], strict=True) if t not in (before, blank)]

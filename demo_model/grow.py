"""Grows a trained model into a wider one that starts where the smaller one is, up to small errors.

Net2Net (Chen, Goodfellow and Shlens, 2016) for a FastConformer: what a new unit writes into an old one is zero and what
it reads is random, so the words stay and the new units can learn. Three things depend on the width itself: layer norms,
whose scales make up for the zeros that they see besides, the scale of attention's scores, and the frequencies of
positions, for which the old ones are fitted by the new.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demo_model.evaluate import load

_LONGEST = 100  # encoder frames of distance between which positions are fitted; look-back is 70


def padded(old: Tensor, shape: Sequence[int], fill: Tensor | None = None) -> Tensor:
    """Put `old` into the first places of a tensor of `shape`, which holds `fill` (zeros) elsewhere."""
    new = torch.zeros(tuple(shape)) if fill is None else fill.clone()
    new[tuple(slice(size) for size in old.shape)] = old
    return new


def _by_part(old: Tensor, parts: int, width: int, fill: Tensor) -> Tensor:
    """Widen each of `parts` equal parts of the first dimension to `width` rows of `fill`."""
    both = zip(old.chunk(parts), torch.split(fill, width), strict=True)
    return torch.cat([padded(part, rest.shape, rest) for part, rest in both])


def _positions(width: int) -> Tensor:
    """Relative positions [2 _LONGEST + 1, width] as the encoder makes them."""
    places = torch.arange(_LONGEST, -_LONGEST - 1, -1, dtype=torch.float64)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * -(math.log(10000.0) / width))
    table = torch.zeros(len(places), width, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = torch.sin(places * rates), torch.cos(places * rates)
    return table


def _fitted_positions(old: int, new: int) -> Tensor:
    """The matrix [old, new] that makes old positions of new ones, by least squares with a small penalty."""
    table, wanted = _positions(new), _positions(old)
    gram = table.T @ table + 1e-4 * torch.eye(new, dtype=torch.float64)
    fitted: Tensor = torch.linalg.solve(gram, table.T @ wanted).T.float()
    return fitted


class _Growth:
    """The widths of both models, and how a tensor of one becomes one of the other."""

    def __init__(self, small: Any, large: Any) -> None:
        self.old, self.new = small.cfg.encoder.d_model, large.cfg.encoder.d_model
        self.heads = small.cfg.encoder.n_heads
        if (
            large.cfg.encoder.n_heads != self.heads
            or large.cfg.encoder.n_layers != small.cfg.encoder.n_layers
        ):
            raise ValueError("a model grows in width alone: heads and layers have to be as many")
        self.head = self.new // self.heads
        # The norm of a vector of which a share is zeros is larger by the root of the widths' ratio.
        self.norm = math.sqrt(self.old / self.new)
        self.scores = math.sqrt(self.head / (self.old // self.heads))
        self.positions = _fitted_positions(self.old, self.new)

    def tensor(self, name: str, old: Tensor, fresh: Tensor) -> Tensor:
        """Give the larger model's tensor; `fresh` holds its random values."""
        nothing = torch.zeros_like(fresh)
        is_weight = name.endswith("weight")
        if "self_attn" in name:
            return self._attention(name, old, fresh)
        if ".norm_" in name or "batch_norm" in name:
            return (
                padded(old * self.norm, fresh.shape, torch.ones_like(fresh))
                if is_weight
                else padded(old, fresh.shape)
            )
        if "pointwise_conv1" in name:
            # Both halves of the gated unit.
            return _by_part(old, 2, self.new, fresh if is_weight else nothing)
        if "pointwise_conv2.weight" in name:
            # The norm before it sees zeros in the new channels, so that these have to be read at once to learn.
            rest = fresh.clone()
            rest[self.old :] = 0
            return padded(old, fresh.shape, rest)
        if "linear1" in name:
            return padded(old, fresh.shape, fresh if is_weight else nothing)
        if name.startswith("encoder.pre_encode.out"):
            # The encoder multiplies what comes in by the root of its width.
            return padded(old * self.norm, fresh.shape)
        if name.startswith("decoder.prediction.dec_rnn"):
            rest = fresh.clone()
            rest.view(4, -1, *fresh.shape[1:])[:, : old.shape[0] // 4] = 0
            return _by_part(old, 4, fresh.shape[0] // 4, rest if "weight" in name else nothing)
        if name in ("joint.pred.weight", "joint.enc.weight"):
            rest = fresh.clone()
            rest[: old.shape[0]] = 0
            return padded(old, fresh.shape, rest)
        if name.startswith("decoder.prediction.embed"):
            return padded(old, fresh.shape, fresh)
        # What writes into the residual stream or out of the model: new units add nothing yet.
        return padded(old, fresh.shape)

    def _attention(self, name: str, old: Tensor, fresh: Tensor) -> Tensor:
        scale = self.scores if "linear_q" in name or "pos_bias" in name else 1.0
        nothing = torch.zeros_like(fresh)
        if "pos_bias" in name:
            return padded(old * scale, fresh.shape)
        if "linear_out.weight" in name:
            by_head = _by_part(old.T, self.heads, self.head, torch.zeros(self.new, len(old)))
            return padded(by_head.T, fresh.shape)
        if "linear_out" in name:
            return padded(old, fresh.shape)
        if "linear_pos" in name:
            return _by_part(old @ self.positions, self.heads, self.head, nothing)
        # New parts of queries and values are random, those of keys zero.
        rest = fresh if name.endswith("weight") and "linear_k" not in name else nothing
        return _by_part(old * scale, self.heads, self.head, rest)


def grow(start: Path, model: Any) -> None:
    """Give `model` the words of the `.nemo` at `start`, of the same layers, heads and pieces and not wider.

    ValueError where it is none such.
    """
    small = load(start)
    if small.tokenizer.vocab != model.tokenizer.vocab:
        raise ValueError(f"{start} has other pieces than the tokenizer")
    growth = _Growth(small, model)
    old = dict(small.named_parameters())
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(
                old[name] if old[name].shape == value.shape else growth.tensor(name, old[name], value)
            )

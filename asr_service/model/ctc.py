"""Greedy CTC decoding of many streams at once: best label per frame, repeats merged across chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.rnnt import Emission


class CtcDecoder:
    """Greedy CTC; a slot remembers the label of its last frame."""

    name = "ctc"

    def __init__(self, model: Any, slots: int, device: torch.device) -> None:
        """Takes the CTC head of a loaded hybrid model."""
        head = model.ctc_decoder.decoder_layers[0]
        self._weight = head.weight.detach().squeeze(-1).contiguous()
        self._bias = head.bias.detach()
        self._blank = self._weight.shape[0] - 1
        self._last = torch.full((slots,), self._blank, dtype=torch.int64, device=device)

    def step(self, slots: Tensor, encoded: Tensor, frames: Sequence[int]) -> list[Emission]:
        """Decodes one chunk of each row; arguments and result as in `RnntDecoder.step`."""
        rows = len(frames)
        slots = slots[:rows]
        logits = functional.linear(encoded[:rows], self._weight, self._bias)
        best, label = logits.max(dim=-1)
        prob = (best - logits.logsumexp(dim=-1)).exp()
        previous = torch.cat([self._last[slots, None], label[:, :-1]], dim=1)
        length = torch.tensor(list(frames), device=encoded.device)
        real = torch.arange(label.shape[1], device=encoded.device) < length[:, None]
        new = (label != previous) & (label != self._blank) & real
        self._last[slots] = label[:, -1]
        emissions = [Emission([], [], []) for _ in range(rows)]
        row, frame = torch.nonzero(new, as_tuple=True)
        for r, t, k, p in zip(
            row.tolist(), frame.tolist(), label[new].tolist(), prob[new].tolist(), strict=True
        ):
            emissions[r].tokens.append(k)
            emissions[r].frames.append(t)
            emissions[r].probs.append(min(p, 1.0))
        return emissions

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], before their first frame."""
        self._last[slots] = self._blank

    def state_bytes(self) -> int:
        """Bytes of state per slot."""
        return self._last.element_size()

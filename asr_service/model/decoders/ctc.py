"""Greedy CTC decoding of many streams at once: best label per frame, repeats merged across chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.decoders.boosting_state import Boosts
from asr_service.model.decoders.boosting_tree import BoostingTree
from asr_service.model.decoders.rnnt import Emission, probability


class CtcDecoder:
    """Greedy CTC; a slot remembers the label of its last frame.

    In a boosted row a run of frames with one best label is one token, which is chosen in its first frame: whichever is
    best with the bonuses. The slot then remembers two labels, that of the model and the one chosen.
    """

    name = "ctc"

    def __init__(self, model: Any, slots: int, device: torch.device) -> None:
        """Takes the CTC head of a loaded hybrid model."""
        head = model.ctc_decoder.decoder_layers[0]
        self.confidence = probability
        self._weight = head.weight.detach().squeeze(-1).contiguous()
        self._bias = head.bias.detach()
        self._blank = self._weight.shape[0] - 1
        self._last = torch.full((slots,), self._blank, dtype=torch.int64, device=device)
        self._chosen = self._last.clone()  # of boosted slots
        self._boosts = Boosts(slots, self._blank, device)

    def step(self, slots: Tensor, encoded: Tensor, frames: Sequence[int]) -> list[Emission]:
        """Decodes one chunk of each row; arguments and result as in `RnntDecoder.step`."""
        rows = len(frames)
        slots = slots[:rows]
        logits = functional.linear(encoded[:rows], self._weight, self._bias)
        label = logits.argmax(dim=-1)
        first = self._last[slots]
        self._last[slots] = label[:, -1]
        if boosted := self._boosts.rows(slots):
            self._choose(logits, label, first, boosted)
        prob = self.confidence(logits, logits.gather(-1, label.unsqueeze(-1)).squeeze(-1))
        previous = torch.cat([first[:, None], label[:, :-1]], dim=1)
        length = torch.tensor(list(frames), device=encoded.device)
        real = torch.arange(label.shape[1], device=encoded.device) < length[:, None]
        new = (label != previous) & (label != self._blank) & real
        emissions = [Emission([], [], []) for _ in range(rows)]
        row, frame = torch.nonzero(new, as_tuple=True)
        for r, t, k, p in zip(
            row.tolist(), frame.tolist(), label[new].tolist(), prob[new].tolist(), strict=True
        ):
            emissions[r].tokens.append(k)
            emissions[r].frames.append(t)
            emissions[r].probs.append(min(p, 1.0))
        return emissions

    def _choose(self, logits: Tensor, label: Tensor, first: Tensor, boosted: dict[int, int]) -> None:
        """Puts the chosen labels of boosted rows into `label` [B, frames], and the one before them into `first` [B]."""
        rows, slots = list(boosted), list(boosted.values())
        index, where = (torch.tensor(numbers, device=label.device) for numbers in (rows, slots))
        raw, chosen = first[index], self._chosen[where]
        first[index] = chosen
        for frame in range(label.shape[1]):
            model_label = label[index, frame]
            goes_on = (model_label != self._blank) & ((model_label == raw) | (model_label == chosen))
            anew = logits[:, frame : frame + 1]
            picked = label[:, frame : frame + 1].clone()
            self._boosts.relabel(anew, picked, rows, slots)
            now = torch.where(goes_on, chosen, picked[index, 0])
            said = (now != chosen) & (now != self._blank)
            raw, chosen = model_label, now
            label[index, frame] = now
            tokens = zip(slots, now.tolist(), said.tolist(), strict=True)
            self._boosts.advance((slot, token) for slot, token, new in tokens if new)
        self._chosen[where] = chosen

    def boost(self, slot: int, tree: BoostingTree | None) -> None:
        """As in `RnntDecoder.boost`."""
        self._boosts.set(slot, tree)

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], before their first frame."""
        self._last[slots] = self._chosen[slots] = self._blank

    def state_bytes(self) -> int:
        """Bytes of state per slot."""
        return 2 * self._last.element_size() + self._boosts.state_bytes()

"""Greedy RNN-T decoding of many streams at once, with the prediction network's state pooled by slot.

Label-looping (Bataev et al., arXiv 2406.06220): rows go on from label to label instead of from frame to frame. One
evaluation of the joint scores all frames of the chunk under the current prediction state; only rows that found a label
go round again, with their prediction network advanced. A chunk costs one round plus one per label of its most
talkative row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr_service.core.errors import ModelError
from asr_service.model.decoders.boosting_state import Boosts
from asr_service.model.decoders.boosting_tree import BoostingTree


def probability(scores: Tensor, chosen: Tensor) -> Tensor:
    """Confidence of tokens: their softmax probability [...], from all scores [..., vocabulary + 1] and
    their own [...]. `bench.confidence` compares it with entropies.
    """
    return (chosen - scores.logsumexp(dim=-1)).exp()


@dataclass(slots=True)
class Emission:
    """Tokens of one row in one step: ids, frames within the chunk, probabilities."""

    tokens: list[int]
    frames: list[int]
    probs: list[float]


class _Lstm:
    """The prediction network's LSTM, one token at a time; the first layer's input product is a table by token."""

    def __init__(self, embed: nn.Embedding, lstm: nn.LSTM) -> None:
        self.layers = lstm.num_layers
        self.hidden = lstm.hidden_size
        self._recurrent: list[Tensor] = []
        self._input: list[Tensor] = []
        self._bias: list[Tensor] = []
        for layer in range(self.layers):
            weight_ih, weight_hh, bias_ih, bias_hh = (
                getattr(lstm, f"{name}_l{layer}").detach()
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            self._recurrent.append(weight_hh.contiguous())
            self._input.append(weight_ih.contiguous())
            self._bias.append(bias_ih + bias_hh)
        self.table = functional.linear(embed.weight.detach(), self._input[0], self._bias[0])

    def start(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """State after the start symbol, a zero vector: h and c [layers, hidden], output [hidden]."""
        zeros = torch.zeros(self.layers, 1, self.hidden, device=device)
        h, c, out = self._run(self._bias[0].unsqueeze(0), zeros, zeros)
        return h[:, 0], c[:, 0], out[0]

    def step(self, tokens: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Feeds tokens [B] to states h, c [layers, B, hidden]; returns h, c and the output [B, hidden]."""
        return self._run(self.table[tokens], h, c)

    def _run(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        new_h, new_c = [], []
        out = h[0]
        for layer in range(self.layers):
            if layer:
                gates = functional.linear(out, self._input[layer], self._bias[layer])
            gates = gates + functional.linear(h[layer], self._recurrent[layer])
            enter, forget, candidate, leave = gates.chunk(4, dim=-1)
            cell = forget.sigmoid() * c[layer] + enter.sigmoid() * candidate.tanh()
            out = leave.sigmoid() * cell.tanh()
            new_h.append(out)
            new_c.append(cell)
        return torch.stack(new_h), torch.stack(new_c), out


class RnntDecoder:
    """Greedy RNN-T over pooled prediction states."""

    name = "rnnt"

    def __init__(self, model: Any, slots: int, device: torch.device) -> None:
        """Takes prediction network and joint of a loaded hybrid model.

        Raises:
            ModelError: if the prediction network is not a plain LSTM.
        """
        rnn = getattr(model.decoder.prediction["dec_rnn"], "lstm", None)
        if not isinstance(rnn, nn.LSTM) or rnn.proj_size or not rnn.bias:
            raise ModelError("the model's prediction network is not a plain LSTM", field="ASR_MODEL")
        self.confidence = probability  # benchmarks put another measure here
        self._blank = int(model.decoder.blank_idx)
        embed = model.decoder.prediction["embed"]
        self._lstm = _Lstm(embed, rnn)
        joint = model.joint
        self._enc, self._pred = joint.enc, joint.pred
        self._activation, self._out = joint.joint_net[0], joint.joint_net[-1]
        self._max_symbols = _max_symbols(model.cfg)
        h, c, out = self._lstm.start(device)
        self._start = (h, c, self._pred(out))
        self._h = h[:, None].repeat(1, slots, 1)
        self._c = c[:, None].repeat(1, slots, 1)
        self._g = self._start[2].repeat(slots, 1)
        self._boosts = Boosts(slots, self._blank, device)

    def step(self, slots: Tensor, encoded: Tensor, frames: Sequence[int]) -> list[Emission]:
        """Decodes one chunk of each row.

        Args:
            slots: int64 [B].
            encoded: fp32 [B, chunk_frames, d_model].
            frames: real frames of each row; rows beyond these are padding.

        Returns:
            One emission per entry of `frames`.
        """
        rows = len(frames)
        device = encoded.device
        emissions = [Emission([], [], []) for _ in range(rows)]
        projected = self._enc(encoded[:rows])
        slots = slots[:rows]
        active = torch.arange(rows, device=device)
        length = torch.tensor(list(frames), device=device)
        at = torch.zeros(rows, dtype=torch.int64, device=device)
        count = torch.zeros(rows, dtype=torch.int64, device=device)
        frame = torch.arange(projected.shape[1], device=device)
        g = self._g[slots]
        h, c = self._h[:, slots], self._c[:, slots]
        boosted = self._boosts.rows(slots)
        going: Sequence[int] = range(rows)  # `active` on the host
        while True:
            logits = self._out(self._activation(projected[active] + g[active].unsqueeze(1)))
            label = logits.argmax(dim=-1)
            if boosted and (places := [place for place, row in enumerate(going) if row in boosted]):
                self._boosts.relabel(logits, label, places, [boosted[going[place]] for place in places])
            found = (label != self._blank) & (frame >= at[active, None]) & (frame < length[active, None])
            index = torch.nonzero(found.any(dim=1)).squeeze(1)
            if not index.numel():
                break
            where = found[index].int().argmax(dim=1)
            active = active[index]
            token = label[index, where]
            scores = logits[index, where]
            prob = self.confidence(scores, scores.gather(1, token[:, None]).squeeze(1))
            repeated = torch.where(where == at[active], count[active] + 1, 1)
            full = repeated >= self._max_symbols
            at[active] = torch.where(full, where + 1, where)
            count[active] = torch.where(full, 0, repeated)
            new_h, new_c, out = self._lstm.step(token, h[:, active], c[:, active])
            h[:, active], c[:, active] = new_h, new_c
            g[active] = self._pred(out)
            going, tokens = active.tolist(), token.tolist()
            for row, t, k, p in zip(going, where.tolist(), tokens, prob.tolist(), strict=True):
                emissions[row].tokens.append(k)
                emissions[row].frames.append(t)
                emissions[row].probs.append(min(p, 1.0))
            if boosted:
                said = [(boosted[row], k) for row, k in zip(going, tokens, strict=True) if row in boosted]
                self._boosts.advance(said)
        self._h[:, slots], self._c[:, slots], self._g[slots] = h, c, g
        return emissions

    def boost(self, slot: int, tree: BoostingTree | None) -> None:
        """What the slot listens for from its next step on, None for nothing; at the tree's root."""
        self._boosts.set(slot, tree)

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], before their first token."""
        h, c, g = self._start
        self._h[:, slots] = h[:, None]
        self._c[:, slots] = c[:, None]
        self._g[slots] = g

    def state_bytes(self) -> int:
        """Bytes of state per slot."""
        own = 4 * (self._h[:, 0].numel() + self._c[:, 0].numel() + self._g[0].numel())
        return int(own) + self._boosts.state_bytes()


def _max_symbols(config: Any) -> int:
    """Most tokens a frame may emit, from the model's own decoding configuration (NeMo's default is 10)."""
    greedy = config.get("decoding", {}).get("greedy", {}) or {}
    value = greedy.get("max_symbols", greedy.get("max_symbols_per_step", 10))
    return int(value) if value else 10

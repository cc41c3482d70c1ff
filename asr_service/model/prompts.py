"""Conditions encoder frames on the language that a stream names, for models with language prompts.

NeMo (nemo/collections/asr/models/rnnt_bpe_models_prompt.py) joins a one-hot vector of the prompt to every frame and
puts the result through two linear layers. The one-hot vector picks a column of the first layer's weight, the same in
every frame: here it is a bias by stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from asr_service.model.nemo_file.weights import WeightReader
from asr_service.model.packed_product import PackedProduct

_FIRST, _SECOND = "prompt_kernel.0", "prompt_kernel.2"


@dataclass(frozen=True, slots=True)
class PromptWeights:
    """The weights of a model's language prompts.

    Attributes:
        frame: of the first layer, for the encoder's frame, [2 d_model, d_model].
        biases: of the first layer by prompt, [prompts, 2 d_model].
        weight, bias: of the second layer, [d_model, 2 d_model] and [d_model].
    """

    frame: Tensor
    biases: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def prompts(self) -> int:
        """How many there are."""
        return len(self.biases)


def read_prompts(weights: WeightReader, d_model: int) -> PromptWeights | None:
    """Reads the weights of a model's language prompts; None if it takes none.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    if f"{_FIRST}.weight" not in weights:
        return None
    first = weights.take(f"{_FIRST}.weight", 2 * d_model, -1)
    if first.shape[1] <= d_model:
        raise weights.wrong(
            f"{_FIRST}.weight has {first.shape[1]} columns; it should have more than {d_model}"
        )
    bias = weights.take(f"{_FIRST}.bias", 2 * d_model)
    return PromptWeights(
        frame=first[:, :d_model].contiguous(),
        biases=(first[:, d_model:].t() + bias).contiguous(),
        weight=weights.take(f"{_SECOND}.weight", d_model, 2 * d_model).contiguous(),
        bias=weights.take(f"{_SECOND}.bias", d_model),
    )


class PromptProjection:
    """Puts encoder frames through the prompt layers.

    Args:
        weights: of the layers.
        device: of the arithmetic.

    Attributes:
        d_model: numbers of a frame.
        prompts: how many there are.
    """

    def __init__(self, weights: PromptWeights, device: torch.device) -> None:
        self.prompts = weights.prompts
        self.d_model = weights.frame.shape[1]
        self._biases = weights.biases
        self._first: Callable[[Tensor], Tensor]
        self._second: Callable[[Tensor], Tensor]
        if device.type == "cpu" and torch._C._has_mkldnn:
            self._first = PackedProduct(weights.frame, None)
            self._second = PackedProduct(weights.weight, weights.bias)
        else:
            self._first = partial(functional.linear, weight=weights.frame)
            self._second = partial(functional.linear, weight=weights.weight, bias=weights.bias)

    def step(self, prompts: Tensor, encoded: Tensor) -> Tensor:
        """Conditions the frames of a step.

        Args:
            prompts: the index of each row's prompt, int64 [B].
            encoded: fp32 [B, frames, d_model].

        Returns:
            fp32 [B, frames, d_model].
        """
        hidden = self._first(encoded)
        hidden += self._biases[prompts].unsqueeze(1)
        return self._second(hidden.relu_())

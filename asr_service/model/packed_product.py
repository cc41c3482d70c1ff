"""Products of oneDNN with weights that are laid out for it once."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows that oneDNN lays the packed weights out for; other numbers of rows work with them too.
_PACK_ROWS = 64


class PackedProduct:
    """Computes x @ weight.T + bias on a CPU, maybe followed by an activation.

    Args:
        weight: [out, in]; a packed copy of it is kept.
        bias: [out], or None for none.
        dtype: of the product, its inputs and its outputs.
        after: "none", "relu" or "swish".
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32, after: str = "none"
    ) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), _PACK_ROWS)
        self._bias = None if bias is None else bias.to(dtype)
        self._after = after

    def __call__(self, x: Tensor) -> Tensor:
        """Returns [..., out] of [..., in], both in the product's type."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._after, [], "")
        return out

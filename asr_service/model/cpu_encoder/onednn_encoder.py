"""Matrix products with packed weights on a CPU, and tensors as arrays for compiled loops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from asr_service.model.cpu_encoder.kernels.rows import Array
from asr_service.model.weights import Affine

# Rows that oneDNN lays the packed weights out for; other numbers of rows work with them too.
_PACK_ROWS = 64


def array(tensor: Tensor) -> Array:
    """The tensor's memory as an array; bfloat16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


class Product:
    """x @ weight.T + bias with packed weights, maybe followed by swish."""

    def __init__(self, weights: Affine, dtype: torch.dtype, after: str = "none") -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weights.weight.to(dtype), _PACK_ROWS)
        self._bias = weights.bias.to(dtype)
        self._after = after

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in the weights' type."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._after, [], "")
        return out

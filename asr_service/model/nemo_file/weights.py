"""Hands out the weights of a model file by name, each checked for its shape, and knows which nobody has asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from asr_service.core.errors import ModelError


class WeightReader:
    """The weights of a model file.

    Args:
        tensors: by name, on the device where they are wanted.
        where: the file and its member, for messages.

    Raises:
        ModelError: what is there is no weight, or claims to be larger than the file.
    """

    def __init__(self, tensors: Mapping[str, Any], where: str) -> None:
        self._where = where
        self._tensors: dict[str, Tensor] = {}
        self._taken: set[str] = set()
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise self.wrong(f"{name} is a {type(tensor).__name__}; it should be a tensor")
            # Strides of zero make a few bytes look like any number of weights.
            if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                raise self.wrong(f"{name} has the shape {_shown(tensor.shape)}, but not so many numbers")
            self._tensors[name] = tensor

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a weight. Raises ModelError if it is missing."""
        return tuple(self._found(name).shape)

    def take(self, name: str, *shape: int) -> Tensor:
        """Returns a weight in fp32.

        Args:
            name: of the weight.
            shape: that it should have; -1 for a dimension of any size.

        Raises:
            ModelError: it is missing, or has another shape.
        """
        tensor = self._found(name)
        fits = len(shape) == tensor.ndim and all(
            wanted in (-1, size) for wanted, size in zip(shape, tensor.shape, strict=True)
        )
        if not fits or not tensor.is_floating_point():
            raise self.wrong(
                f"{name} has the shape {_shown(tensor.shape)} ({str(tensor.dtype).removeprefix('torch.')}); by the "
                f"configuration it should be {_shown(shape)}"
            )
        self._taken.add(name)
        return tensor.detach().to(torch.float32)

    def take_if_there(self, name: str, *shape: int) -> Tensor | None:
        """Returns a weight like `take`, None if it is missing."""
        return self.take(name, *shape) if name in self else None

    def left_over(self) -> list[str]:
        """Returns the names of the weights that nobody has taken."""
        return [name for name in self._tensors if name not in self._taken]

    def ignore(self, *prefixes: str) -> None:
        """Counts the weights of parts that are not used as taken."""
        self._taken |= {name for name in self._tensors if name.startswith(prefixes)}

    def wrong(self, what: str) -> ModelError:
        """Makes the error that says what is wrong with the weights."""
        return ModelError(f"{self._where}: {what}", field="ASR_MODEL")

    def _found(self, name: str) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise self.wrong(f"{name} is missing")
        return tensor


def _shown(shape: Any) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"

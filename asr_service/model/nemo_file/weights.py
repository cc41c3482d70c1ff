"""Reads the weights of a model file and hands them out by name, each checked for its shape; knows which nobody took."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor

from asr_service.core.errors import ModelError, first_line
from asr_service.model.out_of_memory import is_out_of_memory
from asr_service.model.refusals import damaged, wrong


class WeightReader:
    """The weights of a model file.

    Args:
        tensors: by name, on the device where they are wanted.
        where: the file and its member, for messages.

    Raises:
        DamagedModel: what is there is no weight, or claims to be larger than the file.
    """

    def __init__(self, tensors: Mapping[Any, Any], where: str) -> None:
        self._where = where
        self._tensors: dict[str, Tensor] = {}
        self._taken: set[str] = set()
        claimed, held = 0, {}
        for name, tensor in tensors.items():
            if not isinstance(name, str):
                raise damaged(where, f"it has a {type(name).__name__} for a name; it should be a text")
            if not isinstance(tensor, Tensor):
                raise damaged(where, f"{name} is a {type(tensor).__name__}; it should be a tensor")
            if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
                kind = "without numbers" if tensor.is_meta else "sparse or nested"
                raise damaged(where, f"{name} is a tensor that is {kind}; it should be a plain one")
            size, storage = tensor.numel() * tensor.element_size(), tensor.untyped_storage()
            # Strides of zero make a few bytes look like any number of weights.
            if size > storage.nbytes():
                raise damaged(where, f"{name} has the shape {_shown(tensor.shape)}, but not so many numbers")
            claimed += size
            held[storage.data_ptr()] = storage.nbytes()
            self._tensors[name] = tensor
        # A few weights may be one and the same, such as position biases that all layers share.
        if claimed > 2 * sum(held.values()):
            raise damaged(where, f"its tensors have {claimed} bytes, but share {sum(held.values())}")

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
        """Returns the error that says what is wrong with the weights."""
        return wrong(self._where, what)

    def _found(self, name: str) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise self.wrong(f"{name} is missing")
        return tensor


def read_weights(file: IO[bytes], where: str, device: torch.device) -> WeightReader:
    """Reads the weights that `torch.save` has written.

    Args:
        file: that can be read from any place.
        where: the file and its member, for messages.
        device: where they are wanted.

    Raises:
        DamagedModel: they are damaged, or hold more than numbers. That there is no memory for them, or that the device
            fails, is raised as it came.
    """
    size = _size_without_bomb(file, where)
    left = size
    device_error: Exception | None = None

    def place(storage: Any, _: str) -> Any:
        nonlocal left, device_error
        left -= storage.nbytes()
        if left < 0:
            raise damaged(where, f"it holds more numbers than its {size} bytes")
        try:
            return storage.to(device=device)
        except Exception as error:
            device_error = error
            raise

    try:
        tensors = torch.load(file, map_location=place, weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise damaged(
            where,
            "it holds other things than numbers, which could run code while they are read: save the model again with "
            f"save_to ({first_line(error)})",
        ) from error
    # Flipped bytes may make torch raise anything.
    except Exception as error:
        if error is device_error or is_out_of_memory(error):
            raise
        raise damaged(where, f"it is damaged: {first_line(error)}") from error
    if not isinstance(tensors, Mapping):
        raise damaged(where, "it should hold tensors by name")
    return WeightReader(tensors, where)


def _size_without_bomb(file: IO[bytes], where: str) -> int:
    """Returns the size of the weights; raises DamagedModel if they would grow while they are read."""
    size = file.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    # UnicodeDecodeError is a ValueError; zipfile raises NotImplementedError for a format version that it does not know.
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, OverflowError) as error:
        raise damaged(
            where, "it is damaged or not written by torch.save: fetch or save the model again"
        ) from error
    if any(
        entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size
        for entry in entries
    ):
        raise damaged(where, "it is compressed, which torch.save never does")
    # Many entries may point at one place.
    if (told := sum(entry.file_size for entry in entries)) > size:
        raise damaged(where, f"its entries have {told} bytes together, and it has {size}")
    file.seek(0)
    return size


def _shown(shape: Any) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"

"""Writes `.nemo` files that differ from a given one: with other values in the configuration, or other weights."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"


def members(path: Path) -> dict[str, bytes]:
    """The members of an archive by name."""
    with tarfile.open(path) as archive:
        return {
            member.name.removeprefix("./"): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.isfile()
        }


def write(path: Path, content: Mapping[str, bytes], mode: str = "w") -> Path:
    """Writes an archive; `mode` as in tarfile, "w:gz" for a gzipped one."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def changed(
    source: Path,
    path: Path,
    *,
    config: Callable[[dict[str, Any]], object] = lambda _: None,
    weights: Callable[[dict[str, torch.Tensor]], object] = lambda _: None,
) -> Path:
    """Writes a copy of an archive whose configuration and weights these functions have changed in place."""
    content = members(source)
    values = yaml.safe_load(content[CONFIG])
    config(values)
    content[CONFIG] = yaml.safe_dump(values, allow_unicode=True).encode()
    tensors = torch.load(io.BytesIO(content[WEIGHTS]), weights_only=True)
    weights(tensors)
    content[WEIGHTS] = saved(tensors)
    return write(path, content)


def saved(value: object) -> bytes:
    """What `torch.save` writes."""
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def batch_normalized(source: Path, path: Path) -> Path:
    """Writes a copy of a model whose convolutions are normalised over batches instead of over features."""

    def norm(values: dict[str, Any]) -> None:
        values["encoder"]["conv_norm_type"] = "batch_norm"

    def statistics(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("conv.batch_norm.weight")]:
            base = name.removesuffix("weight")
            tensors[base + "running_mean"] = torch.zeros_like(tensors[name])
            tensors[base + "running_var"] = torch.ones_like(tensors[name])
            tensors[base + "num_batches_tracked"] = torch.tensor(1)

    return changed(source, path, config=norm, weights=statistics)

"""Writing the `.nemo`: NeMo's own archive, with the weights stored as float16.

NeMo's `restore_from` copies stored tensors into the model's own float32 parameters, so the file is half the
size and every loader sees an ordinary float32 model.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch

_WEIGHTS = "model_weights.ckpt"


def write_nemo(model: Any, path: Path) -> None:
    """Save `model` at `path`; parameters are rounded to float16, everything else is kept."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.nemo"
        model.save_to(str(whole))
        unpacked = Path(folder) / "unpacked"
        with tarfile.open(whole) as archive:
            # As `filter="data"`, which Python before 3.11.4 does not know.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(unpacked)
        weights = next(unpacked.rglob(_WEIGHTS))
        state = torch.load(weights, map_location="cpu", weights_only=True)
        names = {name for name, _ in model.named_parameters()}
        state = {name: value.half() if name in names else value for name, value in state.items()}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        weights.write_bytes(buffer.getvalue())
        partial = path.with_suffix(".part")
        with tarfile.open(partial, "w") as archive:
            for file in sorted(unpacked.rglob("*")):
                if file.is_file():
                    archive.add(file, arcname=f"./{file.relative_to(unpacked)}", filter=_anonymous)
        partial.rename(path)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Drop owner and time, so that equal weights give an equal file."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info

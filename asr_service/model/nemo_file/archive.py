"""Reads a `.nemo` file: its configuration, its weights, and the files that the configuration names.

A `.nemo` has `model_config.yaml`, `model_weights.ckpt` (written by `torch.save`) and the tokenizer's files, which the
configuration names as `nemo:<member>`. Nothing in it can run code: YAML is read by the safe reader, weights are numbers
only. That holds for what is read here. Where NeMo's own encoder step runs a model, whether it was asked for or is the
only one that knows a part of it, NeMo reads the same file again in its own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from asr_service.model.nemo_file.config import read_config, shown
from asr_service.model.nemo_file.members import Members, open_members
from asr_service.model.nemo_file.names import CONFIG, WEIGHTS
from asr_service.model.nemo_file.weights import WeightReader, read_weights
from asr_service.model.refusals import wrong

_ARTIFACT = "nemo:"


class NemoFile:
    """An open model file.

    Args:
        path: of the file or folder, for messages.
        members: what it holds.

    Attributes:
        path: as given.
        config: the whole configuration.

    Raises:
        ModelError: the configuration is missing or cannot be read.
    """

    def __init__(self, path: Path, members: Members) -> None:
        self.path = path
        self._members = members
        self.config = read_config(members.read(CONFIG), f"{path}: {CONFIG}")

    def artifact(self, named: str) -> bytes:
        """Returns the bytes of a file that the configuration names, as `nemo:<member>`.

        Raises:
            ModelError: it is missing, too large, or lies elsewhere.
        """
        if not named.startswith(_ARTIFACT):
            raise wrong(
                self.config.path,
                f"it names the file {shown(named)}, which is not in the archive (it should begin with {_ARTIFACT!r})",
            )
        return self._members.read(named.removeprefix(_ARTIFACT))

    def weights(self, device: torch.device) -> WeightReader:
        """Reads the weights.

        Args:
            device: where they are wanted.

        Raises:
            ModelError: they are missing or damaged, or hold more than numbers. That there is no memory for them, or
                that the device fails, is raised as it came.
        """
        with self._members.open_weights() as file:
            return read_weights(file, f"{self.path}: {WEIGHTS}", device)


@contextmanager
def open_nemo(path: Path) -> Iterator[NemoFile]:
    """Opens a model file or the folder that one was unpacked to.

    Raises:
        ModelError: it is neither, is damaged, cannot be read, or has members that lie outside it.
        ModelUnavailable: it is gzipped, and the disk has no room to unpack it.
    """
    with open_members(path) as members:
        yield NemoFile(path, members)

"""Reads what a model's file holds, and refuses what cannot be run exactly."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from asr_service.core.errors import DamagedModel
from asr_service.model.languages import read_dictionary
from asr_service.model.locate import find_model, mend_model
from asr_service.model.nemo_file.architecture import Architecture, read_architecture
from asr_service.model.nemo_file.archive import open_nemo
from asr_service.model.nemo_file.tokenizer import Tokenizer, read_tokenizer
from asr_service.model.nemo_file.weights import WeightReader
from asr_service.model.prompts import PromptWeights, read_prompts

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What a model file holds.

    Attributes:
        name: of the model, as set.
        path: of its file.
        architecture: what the file describes.
        tokenizer: of the model.
        weights: on the device that the model runs on.
        activation: of the RNN-T joint, "" without one.
        dictionary: index of each language prompt by its name, empty for a model that takes none.
        prompts: the weights of the language prompts.
    """

    name: str
    path: Path
    architecture: Architecture
    tokenizer: Tokenizer
    weights: WeightReader
    activation: str
    dictionary: dict[str, int]
    prompts: PromptWeights | None


def read_model(name: str, device: torch.device) -> ModelParts:
    """Reads a model's file.

    Args:
        name: of the model, as set.
        device: where its weights are wanted.

    Raises:
        ModelError: there is no such file, it is damaged, or what it holds cannot be run exactly. That there is no
            memory for it, or that the device fails, is raised as it came.
        ModelUnavailable: it has to be fetched from a hub, which is away, or the disk is full.
    """
    path = find_model(name)
    try:
        return _read(name, path, device)
    except DamagedModel:
        mended = mend_model(name, path)
        if mended is None:
            raise
    return _read(name, mended, device)


def _read(name: str, path: Path, device: torch.device) -> ModelParts:
    _log.info("reading %s", path)
    with open_nemo(path) as file:
        architecture = read_architecture(file.config)
        tokenizer = read_tokenizer(file)
        weights = file.weights(device)
        prompts = read_prompts(weights, architecture.encoder.d_model)
        return ModelParts(
            name=name,
            path=path,
            architecture=architecture,
            tokenizer=tokenizer,
            weights=weights,
            activation=file.config.section("joint").section("jointnet").text("activation", "relu")
            if architecture.has_joint
            else "",
            dictionary=dict(read_dictionary(file.config, prompts.prompts)) if prompts else {},
            prompts=prompts,
        )

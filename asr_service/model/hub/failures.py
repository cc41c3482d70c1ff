"""What can go wrong with a hub and with the cache, each as a sentence with its cause and what to do.

What starting again would not mend is a ModelError. A hub that is away or a disk that is full is no error of the
settings: it is a ModelUnavailable. `error_messages.py` says which of them an error of the hub's library means.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants

from asr_service.core.errors import ModelError, ModelUnavailable
from asr_service.model.hub.names import HubName
from asr_service.model.refusals import DISK_FULL

TOKEN = "the token (HF_TOKEN, or the one that `hf auth login` has stored)"
"""Whose it is that asks."""


def away(name: HubName, why: str) -> ModelUnavailable:
    """Returns the error that a hub does not answer."""
    return ModelUnavailable(
        f"ASR_MODEL {name} could not be fetched: the hub at {constants.ENDPOINT} cannot be reached ({why}); check the "
        "network and HF_ENDPOINT and start again, or give the path of a .nemo file",
        field="ASR_MODEL",
    )


def no_client(name: HubName, why: str) -> ModelUnavailable:
    """Returns the error that no connection can even be tried: a proxy or certificates that cannot be used."""
    return ModelUnavailable(
        f"ASR_MODEL {name} could not be fetched: no connection can be made with the proxy and the certificates that "
        f"are set ({why}); correct HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or SSL_CERT_FILE, or unset them",
        field="ASR_MODEL",
    )


def no_token(name: HubName, why: str) -> ModelError:
    """Returns the error that the token is none that could be sent."""
    return ModelError(
        f"ASR_MODEL {name} could not be fetched: {TOKEN} {why}; set HF_TOKEN to one that is valid, or remove it if the "
        "model is public",
        field="ASR_MODEL",
    )


def not_cached(name: HubName) -> ModelError:
    """Returns the error that the network may not be used and the model is not there."""
    return ModelError(
        f"ASR_MODEL {name} is not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to fetch it: unset it for "
        "one start, set HF_HOME to the folder that has the model, or give the path of a .nemo file",
        field="ASR_MODEL",
    )


def damaged(name: HubName, file: Path) -> ModelError:
    """Returns the error that a cached file is not what the hub has, and that the network may not be used."""
    return ModelError(
        f"ASR_MODEL {name} is damaged: {file} is not what the hub has stated; delete that file and start once without "
        "HF_HUB_OFFLINE, which fetches it again",
        field="ASR_MODEL",
    )


def explain_disk(
    error: OSError, folder: Path, needed: int | None = None, free: int | None = None
) -> ModelError | ModelUnavailable:
    """Returns what an error of the cache's folder means.

    Args:
        error: as the system has raised it.
        folder: where something was to be written or read.
        needed: bytes that were still to be written, where that is known.
        free: bytes that the disk had left before.
    """
    if error.errno in DISK_FULL:
        return no_room(folder, needed, free, error.strerror or str(error))
    return ModelError(
        f"HF_HOME: the cache of models {folder} cannot be used ({error.strerror or error}): give this user the right "
        "to write there, or set HF_HOME to a folder where it may",
        field="HF_HOME",
    )


def no_room(folder: Path, needed: int | None, free: int | None, why: str) -> ModelUnavailable:
    """Returns the error that a model does not fit on its disk."""
    sizes = f": {needed} bytes are needed and {free} are free" if needed is not None else ""
    return ModelUnavailable(
        f"ASR_MODEL does not fit into {folder} ({why}){sizes}; make room there, or set HF_HOME to a folder on a disk "
        "that has it",
        field="ASR_MODEL",
    )

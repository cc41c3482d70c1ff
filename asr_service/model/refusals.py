"""The errors that refuse a model; each begins with the setting that names it, and the place that is at fault."""

from __future__ import annotations

import errno
from pathlib import Path

from asr_service.core.errors import DamagedModel, ModelError, ModelUnavailable

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk, a quota or a limit on files that has no room left."""


def cannot_be_served(where: Path | str, reason: str) -> ModelError:
    """Returns the error that a model cannot be run exactly, for this reason."""
    return ModelError(f"ASR_MODEL: {where} cannot be served: {reason}", field="ASR_MODEL")


def wrong(where: Path | str, what: str) -> ModelError:
    """Returns the error that something in a model's file is wrong, whoever wrote it."""
    return ModelError(f"ASR_MODEL: {where}: {what}", field="ASR_MODEL")


def damaged(where: Path | str, what: str) -> DamagedModel:
    """Returns the error that a model's file is not as it was once written."""
    return DamagedModel(f"ASR_MODEL: {where}: {what}", field="ASR_MODEL")


def unreadable(where: Path | str, error: OSError) -> ModelError:
    """Returns the error that the system does not let a file be read."""
    denied = error.errno in (errno.EACCES, errno.EPERM)
    advice = "; give this user the right to read it" if denied else ""
    return ModelError(
        f"ASR_MODEL: {where} cannot be read: {error.strerror or error}{advice}", field="ASR_MODEL"
    )


def not_unpacked(where: Path | str, folder: str, size: int, error: OSError) -> ModelError | ModelUnavailable:
    """Returns the error that a gzipped file's member of so many bytes could not be unpacked into a folder."""
    # A disk that is full is no error of the settings: the next start may find room.
    kind = ModelUnavailable if error.errno in DISK_FULL else ModelError
    return kind(
        f"ASR_MODEL: {where} cannot be unpacked into {folder} ({error.strerror or error}): it takes {size} bytes "
        "there; make room, set TMPDIR to a folder that has it, or give the folder of the unpacked .nemo file",
        field="ASR_MODEL",
    )

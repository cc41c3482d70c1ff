"""Logging of the service: `asr_common.log_lines`, and libraries kept quiet. Audio and transcripts are never logged."""

from __future__ import annotations

import logging
import warnings
from typing import Literal, TextIO

from asr_common import log_lines

QUIETED = (
    "nv_one_logger",
    "nemo_logger",
    "nemo",
    "lightning",
    "pytorch_lightning",
    "lightning_fabric",
    "numexpr",
)
"""Loggers of libraries whose notices say nothing to an operator. Their errors are kept, except telemetry's."""


def set_up(level: str, form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Sends every record of `level` and above to `stream` (stderr); debug records are the service's own only."""
    log_lines.set_up("asr_service", level, form, stream)
    quiet_third_party()


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def quiet_third_party() -> None:
    """Keeps the notices of NeMo and its dependencies off the console, and warnings but those about our own code.
    Cheap, and may be called again at any time.

    Filters sit on the loggers themselves: NeMo sets its logger's level and handlers anew when it is imported. Called
    after that, errors of NeMo look like all others.
    """
    for name in QUIETED:
        logger = logging.getLogger(name)
        if _errors_only not in logger.filters:
            logger.addFilter(_errors_only)
    nemo = logging.getLogger("nemo_logger")
    nemo.handlers.clear()
    nemo.propagate = True
    telemetry = logging.getLogger("nv_one_logger")
    telemetry.propagate = False
    if not telemetry.handlers:
        telemetry.addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"asr_(service|common)(\.|$)")

"""The hub's library, as a service wants it: it logs and draws little, and asks for nothing that is not needed."""

from __future__ import annotations

import logging
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its documented helpers, exported lazily
    WeakFileLock,
    build_hf_headers,
    disable_progress_bars,
    get_session,
    get_token,
    hf_raise_for_status,
)
from huggingface_hub.utils import logging as library_log

from asr_service import __version__

__all__ = ["WeakFileLock", "get_session", "get_token", "headers", "hf_raise_for_status", "set_up"]

TOLD: dict[str, Any] = {"library_name": "asr_service", "library_version": __version__}
"""Who asks, as the library's functions take it."""


def set_up() -> None:
    """Quiets the library: no bars, no records below an error, no address of a file, which may carry a signature."""
    disable_progress_bars()
    # Unless somebody who looks for a fault has asked for more (HF_HUB_VERBOSITY).
    if library_log.get_verbosity() == logging.WARNING:
        library_log.set_verbosity_error()  # type: ignore[no-untyped-call]
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It would ask the hub for a list of programs that may have started this one, to name it in its requests.
    constants.HF_HUB_DISABLE_TELEMETRY = True


def headers() -> dict[str, str]:
    """Returns the headers of a request: the token, if there is one, and who asks."""
    made: dict[str, str] = build_hf_headers(**TOLD)
    return made

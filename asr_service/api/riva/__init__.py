"""The interface of NVIDIA Riva (`nvidia.riva.asr`), for clients and frameworks that use it already.

Optional: its message classes come from NVIDIA's package nvidia-riva-client, and nothing of it is imported unless
`register` finds that package.
"""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from asr_service.sessions.admission import Admission

log = logging.getLogger(__name__)

PACKAGE = "nvidia-riva-client"


def register(server: Any, admission: Admission) -> str | None:
    """Adds the interface to a grpc.aio server if its package is there; logs a line either way.

    A package that is there and cannot be used is logged too: `asr.v1` is served all the same.

    Returns:
        The service's full name, None without it.
    """
    try:
        installed = version(PACKAGE)
    except PackageNotFoundError:
        log.info("riva interface: off; %s is not installed (pip install --no-deps %s)", PACKAGE, PACKAGE)
        return None
    try:
        from asr_service.api.riva.servicer import add_servicer
    except Exception as error:
        log.warning("riva interface: off; %s %s cannot be used: %s", PACKAGE, installed, error)
        return None
    log.info("riva interface: on, with the messages of %s %s", PACKAGE, installed)
    return add_servicer(server, admission)

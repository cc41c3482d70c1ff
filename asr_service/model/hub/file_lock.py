"""The lock of a file in the cache, which the hub's library takes as well."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from filelock import Timeout

from asr_service.model.hub import library
from asr_service.model.hub.cache import RepoCache
from asr_service.model.hub.names import HubName

log = logging.getLogger(__name__)

TELL_S = 5.0
"""How often the log tells that another process is waited for."""


@contextmanager
def file_lock(name: HubName, cache: RepoCache, etag: str) -> Iterator[None]:
    """Keeps other processes with this cache from a file, those that use the library included.

    Raises:
        OSError: the cache cannot be written to.
    """
    cache.locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(library.WeakFileLock(cache.locks / f"{etag}.lock", timeout=TELL_S))
                break
            except Timeout:
                log.info("%s is being fetched by another process: waiting for it", name)
        yield

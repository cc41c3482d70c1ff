"""Fetches a hub's model once, and finds it in the cache from then on.

A name with a revision means what was fetched under it: once it is there, nobody is asked. A name without one means the
newest: the hub is asked at each start for a few seconds, and what is there is used when it does not answer.

What is not in the cache may be in a second one, which is only read (`ASR_SHARED_MODELS`): an image has the models that
were put into it there, where no volume that is mounted for the cache hides them.
"""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import constants

from asr_service.core.errors import ModelError, ModelUnavailable
from asr_service.model.hub.cache import SHARED, CachedFile, RepoCache, matches_etag, shared_root
from asr_service.model.hub.failures import damaged, explain_disk, not_cached
from asr_service.model.hub.names import HubName, parse_hub_name

log = logging.getLogger(__name__)


def fetch(name: str) -> CachedFile:
    """Returns a hub's model in the cache, which is downloaded if it is not there.

    Args:
        name: `owner/name`, or `owner/name@revision`.

    Raises:
        ModelError: the name, the token or the cache is wrong: starting again will not help.
        ModelUnavailable: the hub is away, or the disk is full.
    """
    wanted = parse_hub_name(name)
    cache = RepoCache(wanted)
    try:
        held = _find_whole(wanted, cache) or _find_shared(wanted)
    except OSError as error:
        raise explain_disk(error, cache.folder) from error
    if held is not None and (wanted.revision is not None or constants.HF_HUB_OFFLINE):
        log.info("%s: revision %s is in the cache", wanted, held.commit)
        return held
    if constants.HF_HUB_OFFLINE:
        raise not_cached(wanted)
    # Imported here: it takes half a second, which a start with a pinned model need not wait for.
    from asr_service.model.hub.revision import fetch_newest

    try:
        return fetch_newest(wanted, cache, held)
    except (ModelError, ModelUnavailable) as error:
        if held is None:
            raise
        log.warning("%s: revision %s from the cache is used: %s", wanted, held.commit, error.message)
        return held


def fetch_again_if_damaged(name: str, path: Path) -> Path | None:
    """Fetches a hub's model again whose file could not be read, if the file is not what the hub has stated.

    Args:
        name: as for `fetch`.
        path: of the file that `fetch` has found.

    Returns:
        The path of the new file; None if nothing is wrong with the one that is there.

    Raises:
        ModelError: the file is damaged and the network may not be used, or as for `fetch`.
        ModelUnavailable: as for `fetch`.
    """
    wanted = parse_hub_name(name)
    cache = RepoCache(wanted)
    try:
        held = cache.find()
        if held is None or held.path != path or matches_etag(held.blob, held.blob.name):
            return None
        _remove_damaged(wanted, cache, held)
    except OSError as error:
        raise explain_disk(error, cache.folder) from error
    return fetch(name).path


def _find_whole(name: HubName, cache: RepoCache) -> CachedFile | None:
    """Finds what is held, unless it is damaged: that is removed."""
    held = cache.find()
    if held is None or cache.is_whole(held.blob) or not _remove_damaged(name, cache, held):
        return held
    return None


def _find_shared(name: HubName) -> CachedFile | None:
    """Finds what the second cache holds, unless it is damaged: nobody here may remove it."""
    root = shared_root()
    if root is None:
        return None
    try:
        cache = RepoCache(name, root)
        held = cache.find()
        if held is None or cache.is_whole(held.blob):
            return held
    except OSError as error:
        log.warning("%s: %s=%s cannot be read: %s", name, SHARED, root, error.strerror or error)
        return None
    log.warning("%s: %s is not what the hub has stated: it is not used", name, held.blob)
    return None


def _remove_damaged(name: HubName, cache: RepoCache, held: CachedFile) -> bool:
    """Removes a damaged file, unless another process with this cache has put a whole one in its place.

    Returns:
        Whether it was removed.

    Raises:
        ModelError: no other one could be fetched, since the network may not be used.
        OSError: the cache cannot be written to.
    """
    if constants.HF_HUB_OFFLINE:
        raise damaged(name, held.blob)
    # Imported here for the reason above.
    from asr_service.model.hub.file_lock import file_lock

    with file_lock(name, cache, held.blob.name):
        cache.forget_whole(held.blob)
        if held.path.is_file() and cache.is_whole(held.blob):
            return False
        log.warning("%s: %s is not what the hub has stated: it is removed and fetched again", name, held.blob)
        cache.remove(held)
    return True

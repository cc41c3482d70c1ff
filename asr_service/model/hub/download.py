"""Downloads a model's file into the cache: resumed where it was cut, checked before it is used, told in the log.

The library's own download begins anew when the process that ran it has ended, draws bars, and checks the size alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import FileMetadataError, LocalEntryNotFoundError

from asr_service.core.errors import ModelUnavailable
from asr_service.model.hub import library
from asr_service.model.hub.cache import RepoCache, matches_etag
from asr_service.model.hub.error_messages import is_transient, reading_answers, short_reason
from asr_service.model.hub.failures import away, explain_disk, no_room
from asr_service.model.hub.file_lock import file_lock
from asr_service.model.hub.names import HubName
from asr_service.model.hub.progress import Progress, amount
from asr_service.model.refusals import DISK_FULL

log = logging.getLogger(__name__)

RETRY_WAITS_S: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
"""Waits before retries that followed a try without progress; progress starts the list again, its end gives up."""
TELL_S = 5.0
"""How often the log tells the progress."""
_RANGE_IGNORED, _NO_SUCH_RANGE = 200, 416


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What the hub says of a model's file.

    Attributes:
        commit: the revision.
        file: its path in the repository.
        etag: its SHA-256, or its number in git if it is small.
        size: bytes.
    """

    commit: str
    file: str
    etag: str
    size: int


def download(name: HubName, stated: FileMetadata, cache: RepoCache) -> Path:
    """Brings a file into the cache and returns its path there; begins where an earlier download was cut.

    Raises:
        ModelError: the cache cannot be written to.
        ModelUnavailable: there is no room for it, or what came is not what was stated.
        httpx2.HTTPError: the hub is away or refuses it.
        FileMetadataError: what answers is no hub.
    """
    blob = cache.blob(stated.etag)
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(name, cache, stated.etag):
            if not (blob.exists() and cache.is_whole(blob)):
                _complete(name, stated, blob)
                cache.note_whole(blob)
        # The library's part, which takes the lock too: the link to the file, or what it does where there are no links.
        with reading_answers():
            path = hf_hub_download(name.repo, stated.file, revision=stated.commit, **library.TOLD)
        cache.note_revision(stated.commit)
    except (httpx2.HTTPError, LocalEntryNotFoundError, FileMetadataError):
        # These errors of the library are errors of the system as well.
        raise
    except OSError as error:
        raise explain_disk(error, cache.folder) from error
    return Path(path)


def _complete(name: HubName, stated: FileMetadata, blob: Path) -> None:
    """Downloads what is missing of a file, checks it and puts it in place."""
    partial = blob.with_name(f"{blob.name}.incomplete")
    for last in (False, True):
        _receive_all(name, stated, partial)
        if matches_etag(partial, stated.etag):
            # It is noted as whole, so that it has to be on the disk even if the power fails now.
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(blob)
            return
        partial.unlink()
        if not last:
            log.warning("%s: what came is not what the hub has stated: fetching it once more", name)
    raise ModelUnavailable(
        f"ASR_MODEL {name} could not be fetched: what comes from {constants.ENDPOINT} has not the hash {stated.etag} "
        "that it states; something between damages it, such as a mirror or a proxy: look at HF_ENDPOINT, or fetch the "
        "file in another way and give its path",
        field="ASR_MODEL",
    )


def _receive_all(name: HubName, stated: FileMetadata, partial: Path) -> None:
    """Receives until the file has the size that was stated, or more.

    Raises:
        ModelUnavailable: there is no room, or again and again nothing more comes.
        httpx2.HTTPError: the hub is away or refuses it.
    """
    partial.touch()
    if (have := _size(partial)) > stated.size:
        os.truncate(partial, have := 0)
    needed, free = stated.size - have, shutil.disk_usage(partial.parent).free
    if needed > free:
        raise no_room(partial.parent, needed, free, "too little room on the disk")
    before = f", {amount(have)} of it already there" if have else ""
    log.info("fetching %s: %s, %s%s, into %s", name, stated.file, amount(stated.size), before, partial.parent)
    progress = Progress(stated.size, have, TELL_S, time.monotonic)
    waits = list(RETRY_WAITS_S)
    while (have := _size(partial)) < stated.size:
        error: Exception | None = None
        try:
            _receive(name, stated, partial, progress)
        except httpx2.HTTPError as cut:
            if not is_transient(cut):
                raise
            error = cut
        except OSError as full:
            if full.errno in DISK_FULL:
                # Nothing of it is left to others' harm.
                partial.unlink()
            raise explain_disk(full, partial.parent, needed, free) from full
        if _size(partial) > have:
            waits = list(RETRY_WAITS_S)
        if _size(partial) >= stated.size:
            break
        why = (
            short_reason(error) if error else f"{_size(partial)} of {stated.size} bytes have come and no more"
        )
        if not waits:
            raise away(name, f"{why}, again and again; the next start goes on there")
        log.warning("%s: the download was cut (%s): going on in %g s", name, why, waits[0])
        time.sleep(waits.pop(0))
    log.info("fetched %s: %s", name, progress.summary())


def _receive(name: HubName, stated: FileMetadata, partial: Path, progress: Progress) -> None:
    """Makes one request for what is missing and appends what comes, hardly more than was stated."""
    have = _size(partial)
    headers = library.headers() | {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    url = hf_hub_url(name.repo, stated.file, revision=stated.commit)
    request = library.get_session().stream(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    )
    with request as answer, partial.open("ab") as file:
        if have and answer.status_code == _NO_SUCH_RANGE:
            # It has less than it states.
            return
        if have and answer.status_code == _RANGE_IGNORED:
            file.truncate(0)
            progress.begin_anew()
        library.hf_raise_for_status(answer)
        # As it comes: of a block that was not complete when the connection broke, nothing would be left.
        for block in answer.iter_bytes():
            file.write(block)
            if line := progress.add(len(block)):
                log.info("fetching %s: %s", name, line)
            if file.tell() > stated.size:
                # It is not what was stated, and may have no end.
                return


def _size(path: Path) -> int:
    return path.stat().st_size

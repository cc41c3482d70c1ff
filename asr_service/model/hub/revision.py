"""Asks the hub for the newest revision of a model and brings it into the cache."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import PurePosixPath
from threading import Thread
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import FileMetadataError

from asr_service.core.errors import ModelError, ModelUnavailable
from asr_service.model.hub import library
from asr_service.model.hub.cache import COMMIT, CachedFile, RepoCache
from asr_service.model.hub.download import FileMetadata, download
from asr_service.model.hub.error_messages import explain, is_transient, reading_answers, short_reason
from asr_service.model.hub.failures import away, no_client, no_token
from asr_service.model.hub.names import HubName, choose_file

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

ASK_S = 5.0
"""How long the hub may take to say whether there is something newer than what is held."""
FIRST_WAITS_S: tuple[float, ...] = (1.0, 2.0, 4.0)
"""Before the hub is asked again, where nothing is held."""
# What a hub states becomes a part of paths in the cache.
_ETAG = re.compile(r"\w(?:[\w-]|\.(?!\.)){0,199}", re.ASCII)


def fetch_newest(name: HubName, cache: RepoCache, held: CachedFile | None) -> CachedFile:
    """Returns the newest revision of a model, which is downloaded if it is not the one that is held.

    Raises:
        ModelError: there is no such model, or nobody may read it with this token, or the cache cannot be written.
        ModelUnavailable: the hub is away, no connection can be made as things are set, or the disk is full.
    """
    library.set_up()
    try:
        _make_client(name)
        commit, file = (
            _ask_within(ASK_S, name, lambda: _ask(name))
            if held
            else _ask_with_retries(name, lambda: _ask(name))
        )
        if held is not None and held.commit == commit:
            log.info("%s: revision %s is in the cache and the newest", name, commit)
            return held
        if held is not None:
            log.info("%s: the hub has a newer revision %s than %s, which is held", name, commit, held.commit)
        stated = _ask_with_retries(name, lambda: _ask_file(name, commit, file))
        path = download(name, stated, cache)
    except (ModelError, ModelUnavailable):
        raise
    except Exception as error:
        raise explain(error, name) from error
    log.info("%s: revision %s is in the cache; ASR_MODEL=%s@%s pins it", name, commit, name.repo, commit)
    return CachedFile(path, commit, cache.blob(stated.etag))


def _make_client(name: HubName) -> None:
    """Makes the HTTP client that all requests share; what is set of proxies and certificates is read then.

    Raises:
        ModelUnavailable: none can be made with that.
    """
    try:
        library.get_session()
    except httpx2.InvalidURL as error:
        # What it says of the address may be a part of a password.
        raise no_client(name, "the address of a proxy cannot be read") from error
    except (ImportError, OSError, ValueError) as error:
        raise no_client(name, short_reason(error)) from error


def _check_token(name: HubName) -> None:
    """Looks at the token before it is sent, so that no answer is blamed for it.

    Raises:
        ModelError: it cannot be read, or is none that could be sent.
        httpx2.HTTPError: it would have to be fetched, and that cannot be done now.
    """
    try:
        token = library.get_token() or ""
    except httpx2.HTTPError:
        raise
    except (OSError, ValueError) as error:
        raise no_token(name, f"cannot be read ({short_reason(error)})") from error
    # The client's own error would have the token in it.
    if not (token.isascii() and token.isprintable()):
        raise no_token(name, "has characters that no token has")


def _ask(name: HubName) -> tuple[str, str]:
    """Asks the hub for the revision, as a commit, and for its `.nemo` file."""
    _check_token(name)
    with reading_answers():
        info = HfApi(**library.TOLD).model_info(
            name.repo, revision=name.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        commit = info.sha or ""
        if not COMMIT.fullmatch(commit):
            raise FileMetadataError(f"the commit that it names is {commit!r:.80}")
        files = [file.rfilename for file in info.siblings or []]
        for path in map(PurePosixPath, files):
            if path.is_absolute() or ".." in path.parts:
                raise FileMetadataError(f"a file that it lists is {str(path)!r:.80}")
    return commit, choose_file(name, files)


def _ask_file(name: HubName, commit: str, file: str) -> FileMetadata:
    """Asks the hub for the hash and the size of a file."""
    url = hf_hub_url(name.repo, file, revision=commit)
    with reading_answers():
        stated = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT, **library.TOLD)
        if stated.etag is None or stated.size is None:
            raise FileMetadataError(f"it states no etag or no size of {file}")
        if not _ETAG.fullmatch(stated.etag):
            raise FileMetadataError(f"the etag of {file} is {stated.etag!r:.80}")
        return FileMetadata(commit, file, stated.etag, stated.size)


def _ask_with_retries(name: HubName, ask: Callable[[], Answer]) -> Answer:
    """Asks until there is an answer, or what is wrong will not be gone in a moment."""
    for wait_s in FIRST_WAITS_S:
        try:
            return ask()
        except httpx2.HTTPError as error:
            if not is_transient(error):
                raise
            reason = short_reason(error)
            log.info("%s: the hub does not answer (%s): asking again in %g s", name, reason, wait_s)
        time.sleep(wait_s)
    return ask()


def _ask_within(seconds: float, name: HubName, ask: Callable[[], Answer]) -> Answer:
    """Asks once, and waits no longer than that, whatever the network does: not every look-up of a host has an end.

    Raises:
        ModelUnavailable: there was no answer in time.
    """
    answer: Future[Answer] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=work, name="ask the hub", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        raise away(name, f"no answer in {seconds:g} s") from None

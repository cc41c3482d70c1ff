"""What the errors of the hub's library and of its HTTP client mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from asr_service.core.errors import ModelError, ModelUnavailable, first_line
from asr_service.model.hub import library
from asr_service.model.hub.failures import TOKEN, away, not_cached
from asr_service.model.hub.names import HubName

_BAD_TOKEN = "Invalid credentials in Authorization header"
_QUERY = re.compile(r"\?\S+")
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


def explain(error: Exception, name: HubName) -> ModelError | ModelUnavailable:
    """Returns what an error of the hub's library or of its HTTP client means."""
    if isinstance(error, OfflineModeIsEnabled):
        return not_cached(name)
    if isinstance(error, HfHubHTTPError):
        return _explain_answer(error, name)
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol):
        return ModelError(
            f"HF_ENDPOINT is {constants.ENDPOINT!r}, which is no address of a hub ({error}): write it as "
            "https://huggingface.co, or unset it",
            field="HF_ENDPOINT",
        )
    if isinstance(error, FileMetadataError):
        return ModelUnavailable(
            f"ASR_MODEL {name} could not be fetched: what answers at {constants.ENDPOINT} is no hub "
            f"({short_reason(error)}); look at HF_ENDPOINT and at what stands between, such as a proxy's login page",
            field="ASR_MODEL",
        )
    # The library has errors of its own that are errors of the system, such as LocalEntryNotFoundError.
    if isinstance(error, httpx2.HTTPError | OSError):
        return away(name, short_reason(error))
    raise error


def is_transient(error: Exception) -> bool:
    """Returns whether an error of the library may be gone in a moment."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    return isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.UnsupportedProtocol)


def short_reason(error: Exception) -> str:
    """Returns what an error says, in one line and without what may sign an address: it is for a log."""
    if isinstance(error, HfHubHTTPError):
        return _status(error)
    return _QUERY.sub("?...", first_line(error))


@contextmanager
def reading_answers() -> Iterator[None]:
    """Makes a FileMetadataError of what the hub's library raises at answers that no hub gives."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileMetadataError(short_reason(error)) from error


def _explain_answer(error: HfHubHTTPError, name: HubName) -> ModelError | ModelUnavailable:
    """Returns what an answer of the hub means that is not what was asked for."""
    hub, page = constants.ENDPOINT, f"{constants.ENDPOINT}/{name.repo}"
    status, has_token = error.response.status_code, library.get_token() is not None
    if isinstance(error, GatedRepoError):
        reason = f"ASR_MODEL {name} is given only to those who have accepted its licence"
        if has_token:
            advice = (
                f"the account of {TOKEN} has not, or the token may not read gated models: see to it at {page}"
            )
        else:
            advice = f"accept it at {page}, and set HF_TOKEN to a token of that account"
    elif status == 401 and has_token and error.response.headers.get("X-Error-Message") == _BAD_TOKEN:
        reason = f"ASR_MODEL {name} could not be fetched: the hub at {hub} does not know {TOKEN}"
        advice = "set HF_TOKEN to one that is valid, or remove it if the model is public"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"ASR_MODEL: {name.repo} has no revision {name.revision!r}"
        advice = f"take a branch, tag or commit that {page} shows"
    elif isinstance(error, RepositoryNotFoundError) or status == 404:
        reason = f"ASR_MODEL: the hub at {hub} has no model {name.repo}"
        advice = "correct the name; if the model is private, "
        if has_token:
            advice += f"{TOKEN} has to be of an account that may see it"
        else:
            advice += "set HF_TOKEN to a token of an account that may see it"
    elif status in (401, 403):
        reason = f"ASR_MODEL {name} could not be fetched: the hub at {hub} refuses it with {status}"
        advice = f"set HF_TOKEN to a token that may read it, and look at {page} whether a licence has to be accepted"
    else:
        return away(name, f"it answers {_status(error)}")
    return ModelError(f"{reason}; {advice}", field="ASR_MODEL")


def _status(error: HfHubHTTPError) -> str:
    return f"{error.response.status_code} {error.response.reason_phrase}".rstrip()

"""API keys: who may call, and how many streams each may have open. docs/security.md says why they are kept as SHA-256.

A key file holds one `name:hash[:max_streams]` a line; `#` starts a comment. It is read again when it changes. If it
cannot be read then, the keys stay as they were, and the log has an error.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from asr_common.followed_files import FollowedFiles
from asr_service.core.errors import SettingsError

log = logging.getLogger(__name__)

SECRET_BYTES = 32
"""Random bytes in a key: with so many, nobody guesses, and a fast hash protects them as well as a slow one."""
_NAME = r"[A-Za-z0-9._-]{1,64}"
_LINE = re.compile(rf"(?P<name>{_NAME}):(?P<digest>[0-9a-fA-F]{{64}})(?::(?P<limit>\d{{1,6}}))?")
_LOOK_S = 1.0
"""Least time between two looks at the file."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One line of the file.

    Attributes:
        name: who has the key; two lines with one name are two keys of one client, as while a key is changed.
        digest: SHA-256 of the key's text.
        max_streams: streams that the client may have open at the same time; 0 for no limit of its own.
    """

    name: str
    digest: bytes
    max_streams: int = 0


def new_key(name: str, max_streams: int = 0) -> tuple[str, str]:
    """Makes a key; returns it and the line of the key file that admits it.

    Raises:
        SettingsError: the name is not one.
    """
    if not re.fullmatch(_NAME, name):
        raise SettingsError(
            f"{name!r} is no name of a key: it should be 1 to 64 letters, digits, '.', '_' or '-'",
            field="name",
        )
    if not 0 <= max_streams < 1_000_000:
        raise SettingsError("max-streams should be 0 (no limit of its own) to 999999", field="max_streams")
    key = "asr_" + secrets.token_urlsafe(SECRET_BYTES)
    line = f"{name}:{_digest(key).hex()}"
    return key, f"{line}:{max_streams}" if max_streams else line


def parse(text: str) -> tuple[ApiKey, ...]:
    """Reads the keys of a key file's text.

    Raises:
        SettingsError: for the first line that is none, by its number. Lines are never quoted: one may hold a key by
            mistake.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise SettingsError(
                f"line {number} should be name:hash or name:hash:max_streams, as `python -m asr_service keys new NAME` "
                "prints it (a hash is 64 hexadecimal digits)",
                field="api_keys_file",
            )
        keys.append(ApiKey(match["name"], bytes.fromhex(match["digest"]), int(match["limit"] or 0)))
    return tuple(keys)


class KeyRing:
    """The keys of a file, as it is now. One thread only.

    Args:
        path: of the file.

    Raises:
        SettingsError: the file cannot be read or has a line that is no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = FollowedFiles([path], self._read, look_s=_LOOK_S)

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._file.value)

    def find(self, presented: str) -> ApiKey | None:
        """Returns the key with this text, None if there is none.

        It takes the same time whichever key it is: every digest is compared, each in constant time.
        """
        self._look()
        digest = _digest(presented)
        found = None
        for key in self._file.value:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _look(self) -> None:
        """Reads the file again if it has changed."""
        try:
            keys = self._file.newer()
        except SettingsError as error:
            log.error("%s; the keys stay as they were", error.message)
        else:
            if keys is not None:
                log.info("read %d API keys from %s", len(keys), self._path)

    def _read(self) -> tuple[ApiKey, ...]:
        try:
            return parse(self._path.read_text(encoding="utf-8"))
        except OSError as error:
            why = error.strerror or str(error)
        except UnicodeDecodeError:
            why = "it is not UTF-8 text"
        except SettingsError as error:
            why = error.message
        raise SettingsError(f"ASR_API_KEYS_FILE={self._path}: {why}", field="api_keys_file")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

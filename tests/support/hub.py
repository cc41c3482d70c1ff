"""A stand-in for the Hugging Face hub on loopback: real bytes over the hub's own protocol.

Large files are answered as the hub does it: the file's own address answers with `X-Linked-Size` and `X-Linked-Etag`
and redirects to another server, which has the bytes, in ranges where those are asked for, and must not see the token.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from asr_common.server_process import PATIENCE_S

BLOCK = 1 << 16
SIGNATURE = "of-a-store"
"""Signs the addresses of bytes; nobody else should see it."""


@dataclass
class Repository:
    """A model's repository.

    Attributes:
        files: contents by path, of every revision the same.
        commit: what its branch `main` is.
        tags: commits by tag.
        gated: whether a token has to be of somebody in `accepted`.
        private: whether nobody sees it without a token.
    """

    files: dict[str, bytes]
    commit: str = "a" * 40
    tags: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def resolve(self, revision: str) -> str | None:
        """The commit of a revision, None if there is no such one."""
        known = {"main": self.commit, self.commit: self.commit, **self.tags}
        return known.get(revision) or (revision if revision in self.tags.values() else None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is no news."""


class StandInHub:
    """Serves repositories on a free port of 127.0.0.1; a context manager.

    Attributes:
        repositories: by `owner/name`; may be changed at any time.
        tokens: known tokens, and whether their accounts have accepted the licences.
        requests: method and path of each request so far, with the range that was asked for, if any.
        leaked: tokens that came with requests for bytes, which go to another server.
        cut_after: a download ends without a word once it has sent so many bytes, as often as `cuts` says.
        cuts: how many downloads are still to be cut; -1 is all of them.
        reset: whether a cut is a reset of the connection, with which bytes under way are lost, not its end.
        spoil: how many downloads still send their last byte wrong.
        truncate: sends files shorter by so many bytes than is stated, and calls that complete.
        status: answers every request with this status instead, e.g. 503.
        silent: takes requests and never answers.
        go_on: downloads that are not cut wait for it before they send anything; set unless a test clears it.
        claimed: bytes that a file is said to have more than it has.
        surplus: bytes that are sent more than a file has.
        busy: how many downloads are still answered with 503.
        etag: what every file's is said to be, if it is set.
    """

    def __init__(self, repositories: Mapping[str, Repository]) -> None:
        self.repositories = dict(repositories)
        self.tokens: dict[str, bool] = {}
        self.requests: list[str] = []
        self.leaked: list[str] = []
        self.cut_after = self.cuts = self.spoil = self.truncate = self.status = self.claimed = 0
        self.surplus = self.busy = 0
        self.etag = ""
        self.silent = self.reset = False
        self.go_on = threading.Event()
        self.go_on.set()
        self._closed = threading.Event()
        self._news = threading.Condition()
        self._servers = [_Server(("127.0.0.1", 0), self._handler()) for _ in range(2)]
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            for server in self._servers
        ]

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def store(self) -> str:
        """Where the bytes of files are."""
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def downloads(self) -> list[str]:
        """The requests for files' bytes so far."""
        return [request for request in self.requests if request.startswith("GET /bytes/")]

    def wait_for_downloads(self, count: int) -> None:
        """Waits until so many downloads have been asked for."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.downloads()) >= count, PATIENCE_S)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Is away from now on: its port refuses connections."""
        self._closed.set()
        self.go_on.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            if thread.is_alive():
                server.shutdown()
                thread.join()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            """One connection to the hub."""

            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    pass

            def log_message(self, *args: object) -> None:
                """The requests are noted instead."""

            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                self.answer()

            def answer(self) -> None:
                wanted = self.headers.get("Range")
                with hub._news:
                    hub.requests.append(f"{self.command} {self.path}" + (f" {wanted}" if wanted else ""))
                    hub._news.notify_all()
                if hub.silent:
                    hub._closed.wait()
                    self.close_connection = True
                    return
                if hub.status:
                    self.say(hub.status)
                    return
                path = unquote(urlsplit(self.path).path).strip("/")
                if path.startswith("bytes/"):
                    if bearer := self.headers.get("Authorization"):
                        hub.leaked.append(bearer)
                    self.send_bytes(path.removeprefix("bytes/"))
                elif path.startswith("api/models/"):
                    repo, _, revision = path.removeprefix("api/models/").partition("/revision/")
                    self.tell_repository(repo, revision or "main")
                elif "/resolve/" in path:
                    repo, _, rest = path.partition("/resolve/")
                    revision, _, file = rest.partition("/")
                    self.tell_file(repo, revision, file)
                else:
                    self.say(404)

            def say(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def admitted(self, name: str, *, bytes_too: bool) -> Repository | None:
                """The repository, or None if the answer has been given already."""
                bearer = self.headers.get("Authorization", "")
                token = bearer.removeprefix("Bearer ")
                repo = hub.repositories.get(name)
                if token and token not in hub.tokens:
                    self.say(401, X_Error_Message="Invalid credentials in Authorization header")
                elif repo is None or (repo.private and not token):
                    # Who may not see a repository is told the same as if there were none.
                    self.say(404 if token else 401, X_Error_Code="RepoNotFound", X_Error_Message="Not found")
                elif bytes_too and repo.gated and not hub.tokens.get(token, False):
                    self.say(403 if token else 401, X_Error_Code="GatedRepo", X_Error_Message="Gated")
                else:
                    return repo
                return None

            def tell_repository(self, name: str, revision: str) -> None:
                repo = self.admitted(name, bytes_too=False)
                if repo is None:
                    return
                commit = repo.resolve(revision)
                if commit is None:
                    self.say(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
                    return
                told = {
                    "_id": "0",
                    "id": name,
                    "modelId": name,
                    "sha": commit,
                    "private": repo.private,
                    "gated": "auto" if repo.gated else False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [{"rfilename": file} for file in repo.files],
                }
                self.say(200, json.dumps(told).encode(), Content_Type="application/json")

            def tell_file(self, name: str, revision: str, file: str) -> None:
                repo = self.admitted(name, bytes_too=True)
                if repo is None:
                    return
                commit = repo.resolve(revision)
                if commit is None:
                    self.say(404, X_Error_Code="RevisionNotFound")
                elif file not in repo.files:
                    self.say(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
                else:
                    data = repo.files[file]
                    self.say(
                        302,
                        Location=f"{hub.store}/bytes/{name}/{file}?X-Amz-Signature={SIGNATURE}",
                        ETag='"of the redirect"',
                        X_Repo_Commit=commit,
                        X_Linked_Size=str(len(data) + hub.claimed),
                        X_Linked_Etag=f'"{hub.etag or hashlib.sha256(data).hexdigest()}"',
                    )

            def send_bytes(self, path: str) -> None:
                if hub.busy:
                    hub.busy -= 1
                    self.say(503)
                    return
                owner, name, file = path.split("/", 2)
                data = hub.repositories[f"{owner}/{name}"].files[file]
                if hub.spoil:
                    hub.spoil -= 1
                    data = data[:-1] + bytes([data[-1] ^ 1])
                whole = len(data)
                data = data[: whole - hub.truncate] + bytes(hub.surplus)
                wanted = self.headers.get("Range")
                begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                if begin >= len(data):
                    self.say(416, Content_Range=f"bytes */{len(data)}")
                    return
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - begin))
                self.send_header("Accept-Ranges", "bytes")
                self.end_headers()
                rest = data[begin:]
                if hub.cuts:
                    hub.cuts -= 1
                    self.wfile.write(rest[: hub.cut_after])
                    self.wfile.flush()
                    if hub.reset:
                        self.connection.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                        self.connection.close()
                    self.close_connection = True
                    return
                hub.go_on.wait()
                for at in range(0, len(rest), BLOCK):
                    self.wfile.write(rest[at : at + BLOCK])

        return Handler


def environment(hub: StandInHub | str, home: Path, **more: str) -> dict[str, str]:
    """The library's variables for a process that uses this hub, and nothing of the machine's own."""
    endpoint = hub if isinstance(hub, str) else hub.endpoint
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "",
        "HF_TOKEN_PATH": str(home / "token"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    } | more

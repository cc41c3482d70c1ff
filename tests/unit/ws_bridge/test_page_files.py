"""What a browser is answered that asks for the page, and what the page may load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from ws_bridge.page_files import FOLDER, PageFiles

PAGE = PageFiles()
NAMES = sorted(path.name for path in FOLDER.iterdir())


def ask(path: str, method: str = "GET", **headers: str) -> Response | None:
    return PAGE.answer(Request(path, Headers(**headers), method))


def found(path: str, method: str = "GET", **headers: str) -> Response:
    answer = ask(path, method, **headers)
    assert answer is not None
    return answer


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_folder_is_served_as_what_it_is(name: str) -> None:
    answer = found(f"/{name}?a=b")
    body = (FOLDER / name).read_bytes()
    assert (answer.status_code, answer.body) == (200, body)
    assert answer.headers["Content-Length"] == str(len(body))
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    assert answer.headers["Content-Type"].partition(";")[0] == kinds[Path(name).suffix]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_root_is_the_index() -> None:
    assert found("/").body == (FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize(
    "path",
    ["/nothing.js", "/../page_files.py", "/%2e%2e/config.py", "//index.html", "/page/index.html", "", "*"],
)
def test_nothing_else_is(path: str) -> None:
    assert found(path).status_code == 404


def test_other_methods_are_refused_by_name() -> None:
    answer = found("/page.css", "POST")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert found("/page.css", "HEAD").status_code == 200


def test_a_handshake_is_not_the_pages_business() -> None:
    assert ask("/", Upgrade="websocket") is None
    assert ask("/anywhere", Upgrade="h2c, WebSocket") is None
    assert found("/", Upgrade="h2c").status_code == 200


def test_what_a_browser_has_is_not_sent_again() -> None:
    tag = found("/main.js").headers["ETag"]
    for has in (tag, f'"other", W/{tag}'):
        answer = found("/main.js", **{"If-None-Match": has})
        assert (answer.status_code, answer.body, answer.headers["ETag"]) == (304, b"", tag)
        assert "Content-Length" not in answer.headers
    assert found("/main.js", **{"If-None-Match": '"other"'}).status_code == 200
    assert found("/main.js").headers["Cache-Control"] == "no-cache"
    assert tag != found("/page.css").headers["ETag"]


def test_the_policy_admits_the_pages_own_files_alone() -> None:
    policy = dict(rule.split(" ", 1) for rule in found("/").headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in " ".join(policy.values())


def test_no_file_asks_for_anything_elsewhere_or_has_code_in_line() -> None:
    for name in NAMES:
        text = (FOLDER / name).read_text(encoding="utf-8")
        addresses = set(re.findall(r"\w+://[\w.]+", text)) - {"http://www.w3.org", "http://localhost"}
        assert not addresses, name
        assert not re.search(r"<style|<script(?! type=\"module\" src=)|\son\w+=|\sstyle=", text), name
        for imported in re.findall(r"(?:from|import) \"\./([\w.]+)\"", text):
            assert imported in NAMES
        assert len(text.splitlines()) <= 320, name

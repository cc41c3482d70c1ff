"""The web page's script in Node.js, with a browser that does as a test tells it: the microphone is never left on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.process import PATIENCE_S, ROOT

NODE = shutil.which("node")
BROWSER = """
const fails = process.argv[2], elements = {}, sockets = [], sent = [];
const microphone = { on: false };
const element = (id) => ({
  textContent: "", value: id === "url" ? "ws://bridge:8080" : "", style: {}, classList: { toggle() {} },
  appendChild: (child) => child,
  addEventListener(_, listener) { this.submit = () => listener({ preventDefault() {} }); },
});
globalThis.document = {
  getElementById: (id) => (elements[id] ??= Object.assign(element(id), { firstElementChild: element() })),
  createElement: element,
};
const track = { stop() { microphone.on = false; } };
const getUserMedia = async () => { microphone.on = true; return { getTracks: () => [track] }; };
Object.defineProperty(globalThis, "navigator", { value: { mediaDevices: { getUserMedia } } });
globalThis.AudioContext = class {
  sampleRate = 48000;
  audioWorklet = { async addModule() { if (fails === "module") throw new Error("no module"); } };
  createMediaStreamSource() { return { connect() {} }; }
  close() {}
};
globalThis.AudioWorkletNode = class {
  port = {};
  constructor() { if (fails === "node") throw new Error("no node"); }
};
globalThis.WebSocket = class {
  static OPEN = 1;
  readyState = 0;
  constructor() { if (fails === "socket") throw new Error("no socket"); sockets.push(this); }
  open() { this.readyState = 1; this.onopen(); }
  send(data) { sent.push(data); }
  // As in a browser: a handshake that is given up is an abnormal end.
  close(code) { this.end(this.readyState === 1 ? code : 1006); }
  end(code) { this.readyState = 3; this.onclose({ code, reason: "" }); }
};
"""
TELL = """
console.log(JSON.stringify({
  status: elements.status.textContent, microphone: microphone.on, button: elements.button.textContent, sent,
}));
"""


def visit(tmp_path: Path, does: str, fails: str = "") -> dict[str, object]:
    """What the page shows after Start, then `does`; `fails` is the part of the browser that throws."""
    page = (ROOT / "clients/web/index.html").read_text()
    script = re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    assert script is not None
    program = tmp_path / "page.mjs"
    program.write_text(f"{BROWSER}{script[1]}\nawait elements.form.submit();\n{does}\n{TELL}")
    if NODE is None:
        pytest.skip("node is not installed")
    done = subprocess.run(
        [NODE, program, fails], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    shown: dict[str, object] = json.loads(done.stdout)
    return shown


@pytest.mark.parametrize("fails", ["module", "socket"])
def test_the_microphone_goes_off_when_the_page_cannot_start(tmp_path: Path, fails: str) -> None:
    shown = visit(tmp_path, "", fails)
    assert (shown["microphone"], shown["status"]) == (False, f"no {fails}")


def test_the_microphone_goes_off_when_it_cannot_be_listened_to(tmp_path: Path) -> None:
    shown = visit(tmp_path, "sockets[0].open();", "node")
    assert (shown["microphone"], shown["status"], shown["button"]) == (False, "no node", "Start")


def test_stopping_while_connecting_is_no_error(tmp_path: Path) -> None:
    shown = visit(tmp_path, "await elements.form.submit();")
    assert (shown["microphone"], shown["status"], shown["button"]) == (False, "Stopped.", "Start")


def test_a_bridge_that_cannot_be_reached_is_one(tmp_path: Path) -> None:
    shown = visit(tmp_path, "sockets[0].end(1006);")
    assert (shown["microphone"], shown["status"], shown["button"]) == (False, "closed with 1006 ", "Start")


def test_a_whole_visit(tmp_path: Path) -> None:
    does = """
    sockets[0].open();
    if (elements.status.textContent !== "Listening." || !microphone.on) throw new Error("not listening");
    await elements.form.submit();
    if (microphone.on) throw new Error("still listening");
    sockets[0].end(1000);
    """
    shown = visit(tmp_path, does)
    assert (shown["status"], shown["button"]) == ("Done.", "Start")
    init, close = (json.loads(str(message)) for message in shown["sent"])  # type: ignore[attr-defined]
    assert (init["op"], init["sr"], close) == ("init", 48000, {"op": "close", "sid": init["sid"]})
    assert (init["endpoint_ms"], init["language"]) == (800, "")


def test_a_language_is_asked_for_and_shown(tmp_path: Path) -> None:
    does = """
    const lines = [];
    elements.finals = { appendChild: (line) => (lines.push(line), line) };
    elements.language = { value: " de-DE " };
    sockets[0].open();
    for (const fields of [{ text: "ja", language: "de-DE" }, { text: "yes" }, { text: "", language: "en-US" }])
      sockets[0].onmessage({ data: JSON.stringify({ op: "final", final: true, ...fields }) });
    sent.push(JSON.stringify(lines.map(({ textContent, lang }) => [textContent, lang])));
    sockets[0].end(1000);
    """
    init, lines = (json.loads(str(message)) for message in visit(tmp_path, does)["sent"])  # type: ignore[attr-defined]
    assert init["language"] == "de-DE"
    assert lines == [["ja", "de-DE"], ["yes", ""]]

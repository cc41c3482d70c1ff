"""The clients against servers that ask who calls."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asr_service.access.api_keys import new_key
from tests.support.audio import speechlike
from tests.support.bridge import Bridge
from tests.support.certificates import Authority
from tests.support.process import PATIENCE_S, ROOT, AsrService, clean_environment


def run(
    module: str, *argv: object, given: bytes | None = None, **environment: object
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, argv)],
        cwd=ROOT,
        env=clean_environment(**environment),
        input=given,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


@dataclass
class Guarded:
    """A service and a bridge with TLS and keys; the service asks for a certificate too."""

    grpc: str
    wss: str
    ca: Path
    cert: Path
    key: Path
    api_key: str
    wav: Path

    @property
    def mutual(self) -> tuple[object, ...]:
        return ("--ca", self.ca, "--cert", self.cert, "--key", self.key)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    wav = folder / "a.wav"
    with wave.open(str(wav), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(speechlike(1.0, seed=5))
    ca = Authority(folder)
    cert, key = ca.issue("server")
    own_cert, own_key = ca.issue("client")
    api_key, line = new_key("someone")
    keys = folder / "keys"
    keys.write_text(line)
    with (
        AsrService(
            ASR_TLS_CERT=cert, ASR_TLS_KEY=key, ASR_TLS_CLIENT_CA=ca.cert, ASR_API_KEYS_FILE=keys
        ) as service,
        Bridge(
            service.target,
            ASR_GRPC_CA=ca.cert,
            ASR_GRPC_CERT=own_cert,
            ASR_GRPC_KEY=own_key,
            ASR_BRIDGE_TLS_CERT=cert,
            ASR_BRIDGE_TLS_KEY=key,
        ) as bridge,
    ):
        port = service.target.rpartition(":")[2]
        yield Guarded(
            f"localhost:{port}", f"wss://localhost:{bridge.port}", ca.cert, own_cert, own_key, api_key, wav
        )


def calls(guarded: Guarded) -> dict[str, tuple[Any, ...]]:
    """Each client at each door: what it is started with, and what it is to be given."""
    pcm = guarded.wav.read_bytes()[44:]
    load = ("--streams", 2, "--duration", 1, "--ramp", 0)
    return {
        "file over gRPC": (
            "clients.grpc_client_wav",
            (guarded.wav, "--target", guarded.grpc, "--fast"),
            None,
        ),
        "file over WebSocket": ("clients.ws_client_wav", (guarded.wav, guarded.wss, "--fast"), None),
        "live over gRPC": ("clients.mic", ("-", "--to", guarded.grpc), pcm),
        "live over WebSocket": ("clients.mic", ("-", "--to", guarded.wss), pcm),
        "load over gRPC": ("clients.loadgen", ("--grpc", guarded.grpc, *load), None),
        "load over WebSocket": ("clients.loadgen", ("--ws", guarded.wss, *load), None),
    }


CALLS = [f"{what} over {door}" for what in ("file", "live", "load") for door in ("gRPC", "WebSocket")]


@pytest.mark.parametrize("name", CALLS)
def test_a_client_shows_what_is_asked_for(guarded: Guarded, name: str) -> None:
    module, argv, given = calls(guarded)[name]
    done = run(module, *argv, *guarded.mutual, given=given, ASR_API_KEY=guarded.api_key)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    done = run(module, *argv, *guarded.mutual, "--api-key", "wrong", given=given)
    assert done.returncode == 1
    assert b"unauthenticated" in (done.stderr + done.stdout).lower()


@pytest.fixture(scope="module")
def strangers(guarded: Guarded) -> Iterator[dict[str, Future[subprocess.CompletedProcess[bytes]]]]:
    """Each client at a server that it does not know. All at once: some look for it for seconds."""

    def ask(name: str) -> subprocess.CompletedProcess[bytes]:
        module, argv, given = calls(guarded)[name]
        tls = ["--tls"] if "gRPC" in name else []
        return run(module, *argv, *tls, given=given, ASR_API_KEY=guarded.api_key)

    with ThreadPoolExecutor(len(CALLS)) as pool:
        yield {name: pool.submit(ask, name) for name in CALLS}


@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_is_not_known_is_not_talked_to(
    strangers: dict[str, Future[subprocess.CompletedProcess[bytes]]], name: str
) -> None:
    """The system does not know the authority of the test's certificates."""
    done = strangers[name].result()
    assert done.returncode == 1, done.stdout


def test_mutual_tls_is_needed(guarded: Guarded) -> None:
    module, argv, _ = calls(guarded)["file over gRPC"]
    assert run(module, *argv, "--ca", guarded.ca, ASR_API_KEY=guarded.api_key).returncode == 1


def test_what_the_load_report_holds(guarded: Guarded, tmp_path: Path) -> None:
    module, argv, _ = calls(guarded)["load over gRPC"]
    report = tmp_path / "load.json"
    done = run(module, *argv, *guarded.mutual, "--json", report, ASR_API_KEY=guarded.api_key)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["outcomes"] == {"ok": 2}
    assert guarded.api_key not in report.read_text()


MODULES = {
    "clients.grpc_client_wav": ["a.wav"],
    "clients.ws_client_wav": ["a.wav"],
    "clients.mic": ["-"],
    "clients.loadgen": [],
}


@pytest.mark.parametrize("module", MODULES)
def test_options_that_cannot_be(module: str, tmp_path: Path, guarded: Guarded) -> None:
    wrong: dict[str, tuple[object, ...]] = {
        "--ca: ": ("--ca", tmp_path / "none"),
        "printable ASCII": ("--api-key", "caf\u00e9"),
        "--cert and --key go together": ("--cert", guarded.cert),
        "--cert: ": ("--cert", guarded.cert, "--key", guarded.ca),
    }
    for said, options in wrong.items():
        done = run(module, *MODULES[module], *options)
        assert done.returncode == 2
        assert said in done.stderr.decode(), done.stderr

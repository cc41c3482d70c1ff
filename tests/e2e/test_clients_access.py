"""The file clients against servers that ask who calls."""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import pytest

from asr_service.keys import new_key
from tests.support.audio import speechlike
from tests.support.bridge import Bridge
from tests.support.certificates import Authority
from tests.support.process import ROOT, AsrService, clean_environment


def run(module: str, *argv: object, **environment: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, argv), "--fast"],
        cwd=ROOT,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_file_clients_with_tls_and_keys(tmp_path: Path) -> None:
    wav = tmp_path / "a.wav"
    with wave.open(str(wav), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(speechlike(1.0, seed=5))
    ca = Authority(tmp_path)
    cert, key = ca.issue("server")
    api_key, line = new_key("someone")
    keys = tmp_path / "keys"
    keys.write_text(line)
    with (
        AsrService(ASR_TLS_CERT=cert, ASR_TLS_KEY=key, ASR_API_KEYS_FILE=keys) as service,
        Bridge(
            service.target, ASR_GRPC_CA=ca.cert, ASR_BRIDGE_TLS_CERT=cert, ASR_BRIDGE_TLS_KEY=key
        ) as bridge,
    ):
        over_grpc = ("clients.grpc_client_wav", wav, "--target", service.target)
        url = f"wss://localhost:{bridge.port}"
        for call in (over_grpc, ("clients.ws_client_wav", wav, url)):
            done = run(*call, "--ca", ca.cert, ASR_API_KEY=api_key)
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip()
            done = run(*call, "--ca", ca.cert, "--api-key", "wrong")
            assert done.returncode == 1
            assert "unauthenticated" in done.stderr.lower()
        assert run("clients.ws_client_wav", wav, url).returncode == 1, (
            "the system does not know the authority"
        )


@pytest.mark.parametrize("module", ["clients.grpc_client_wav", "clients.ws_client_wav"])
def test_options_that_cannot_be(module: str, tmp_path: Path) -> None:
    assert run(module, "a.wav", "--ca", tmp_path / "none").returncode == 2
    assert run(module, "a.wav", "--api-key", "caf\u00e9").returncode == 2

"""What `helm test` runs in the cluster, said to real services here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.chart.releases import CHART, NAMESPACE, Release
from tests.support import certificates
from tests.support.process import PATIENCE_S, AsrService, clean_environment, printed

SCRIPT = CHART / "files/speak.py"


def speak(target: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """The script, as the pod runs it."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.read_text(encoding="utf-8"), target],
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_it_speaks_with_tls_and_a_key(tmp_path: Path) -> None:
    authority = certificates.Authority(tmp_path)
    cert, key = authority.issue("service")
    keys = tmp_path / "keys"
    told = printed("-m", "asr_service", "keys", "new", "test", "--file", keys)
    (api_key,) = re.findall(r"asr_\S+", told.partition("added")[0])
    with AsrService(ASR_TLS_CERT=cert, ASR_TLS_KEY=key, ASR_API_KEYS_FILE=keys) as service:
        target = service.target.replace("127.0.0.1", "localhost")
        refused = speak(target, ASR_GRPC_CA=authority.cert)
        assert (refused.returncode, "UNAUTHENTICATED" in refused.stdout) == (1, True)
        done = speak(target, ASR_GRPC_CA=authority.cert, ASR_API_KEY=api_key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.partition("heard: ")[2].strip()


def test_the_pod_that_runs_it(releases: dict[str, Release]) -> None:
    for name, release in releases.items():
        pods = release.of("Pod")
        assert len(pods) == (name != "mutual TLS")
        for pod in pods.values():
            (container,) = pod["spec"]["containers"]
            *command, script, target = container["args"]
            assert command == ["python3", "-c"]
            assert script.strip() == SCRIPT.read_text(encoding="utf-8").strip()
            host, port = target.split(":")
            ports = release.of("Service")[
                host.removesuffix(f".{NAMESPACE}.svc").removeprefix(release.name + "-")
            ]["spec"]["ports"]
            assert int(port) in {one["port"] for one in ports}
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"

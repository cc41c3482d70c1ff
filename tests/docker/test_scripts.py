"""The scripts of docker/, run outside a container; `docker` itself is a script that writes down what it was asked."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.support.bridge import Bridge
from tests.support.certificates import Authority
from tests.support.process import ROOT, AsrService, ServerProcess, clean_environment
from tests.torture.streams import free_port

ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"
HEALTHCHECK = ROOT / "docker" / "healthcheck.py"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """This Python as python3, and a docker that prints its arguments, one a line."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    # Not a link: an interpreter of a virtual environment finds itself by its path.
    (bin_folder / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (bin_folder / "docker").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    for program in bin_folder.iterdir():
        program.chmod(0o755)
    return clean_environment(PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}")


def run(environment: dict[str, str], *command: object, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env=environment | settings,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(("role", "program"), [("service", "asr_service"), ("bridge", "ws_bridge")])
def test_a_role_is_a_program_with_its_options(environment: dict[str, str], role: str, program: str) -> None:
    done = run(environment, ENTRYPOINT, role, "--help")
    assert done.returncode == 0
    assert f"python -m {program}" in done.stdout


def test_options_of_both_at_once_are_refused(environment: dict[str, str]) -> None:
    done = run(environment, ENTRYPOINT, "all", "--port", "1")
    assert done.returncode == 2
    assert "ASR_*" in done.stderr


def test_anything_else_is_a_command_and_replaces_the_script(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [ENTRYPOINT, "sh", "-c", "echo $$; exit 7"], env=environment, stdout=subprocess.PIPE
    ) as process:
        said, _ = process.communicate(timeout=60)
    assert int(said) == process.pid, "no shell in between that would swallow signals"
    assert process.returncode == 7


def test_a_setting_that_cannot_be_served_is_the_exit_code_of_the_container(
    environment: dict[str, str],
) -> None:
    done = run(environment, ENTRYPOINT, "service", ASR_DECODER="tdt")
    assert done.returncode == 2
    assert "ASR_DECODER" in done.stderr


def test_health_of_a_service(environment: dict[str, str]) -> None:
    with AsrService() as service:
        port = service.target.rpartition(":")[2]
        assert run(environment, "python3", HEALTHCHECK, "service", ASR_GRPC_PORT=port).returncode == 0
        service.stop()
        done = run(environment, "python3", HEALTHCHECK, "service", ASR_GRPC_PORT=port)
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stdout


def test_health_of_a_bridge_is_that_of_its_service(environment: dict[str, str]) -> None:
    with ServerProcess(
        ["-m", "ws_bridge"], ASR_PORT=0, ASR_HOST="127.0.0.1", ASR_GRPC_TARGET="localhost:1"
    ) as bridge:
        port = bridge.wait_line(r"listening .*port=(\d+)").group(1)
        done = run(environment, "python3", HEALTHCHECK, "bridge", ASR_PORT=port)
        bridge.signal(signal.SIGTERM)
    assert done.returncode == 1
    assert "503" in done.stdout


def test_health_with_tls(environment: dict[str, str], tmp_path: Path) -> None:
    """The service tells it at its metrics port, the bridge over https; who they are is not asked."""
    cert, key = (str(path) for path in Authority(tmp_path).issue("server", host="asr.example.com"))
    ask = partial(run, environment, "python3", HEALTHCHECK)
    port = str(free_port())
    with AsrService(ASR_TLS_CERT=cert, ASR_TLS_KEY=key, ASR_METRICS_PORT=port) as service:
        assert ask("service", ASR_TLS_CERT=cert, ASR_METRICS_PORT=port).returncode == 0
        done = ask("service", ASR_TLS_CERT=cert)
        assert done.returncode == 1 and "ASR_METRICS_PORT" in done.stdout
        with Bridge(
            service.target, ASR_GRPC_CA=tmp_path / "ca.pem", ASR_BRIDGE_TLS_CERT=cert, ASR_BRIDGE_TLS_KEY=key
        ) as bridge:
            done = ask("bridge", ASR_BRIDGE_TLS_CERT=cert, ASR_PORT=str(bridge.port))
        assert done.stdout == "" or "503" in done.stdout, "as far as it has come"


def test_health_of_nothing_is_a_usage_error(environment: dict[str, str]) -> None:
    assert run(environment, "python3", HEALTHCHECK).returncode == 2


@pytest.mark.parametrize("model", ["", "demo", "null", "/models/mine.nemo"])
def test_there_is_nothing_to_prefetch(environment: dict[str, str], model: str) -> None:
    done = run(environment, "python3", ROOT / "docker" / "prefetch.py", model)
    assert done.returncode == 0, done.stderr
    assert "nothing to fetch" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "file", "tag"),
    [
        ((), "docker/Dockerfile", "asr-service:cuda"),
        (("cuda",), "docker/Dockerfile", "asr-service:cuda"),
        (("cpu", "--no-cache"), "docker/Dockerfile.cpu", "asr-service:cpu"),
    ],
)
def test_build_names_the_file_and_the_image(
    environment: dict[str, str], arguments: tuple[str, ...], file: str, tag: str
) -> None:
    asked = run(environment, ROOT / "docker" / "build.sh", *arguments, PREFETCH_MODEL="a/b").stdout.split()
    assert asked[:5] == ["build", "--file", file, "--tag", tag]
    assert asked[5:7] == ["--build-arg", "PREFETCH_MODEL=a/b"]
    assert asked[7:-1] == list(arguments[1:])
    assert asked[-1] == "."


def test_build_refuses_another_flavour(environment: dict[str, str]) -> None:
    done = run(environment, ROOT / "docker" / "build.sh", "rocm")
    assert done.returncode == 2
    assert "neither cuda nor cpu" in done.stderr


def test_run_hands_on_the_settings_and_publishes_the_ports(environment: dict[str, str]) -> None:
    settings = {"ASR_PORT": "9090", "ASR_ATT_CTX": "70,6", "ASR_IMAGE": "mine:1"}
    asked = run(environment, ROOT / "docker" / "run.sh", **settings).stdout.splitlines()
    pairs = list(itertools.pairwise(asked))
    assert ("--publish", "9090:9090") in pairs
    assert ("--publish", "50051:50051") in pairs
    assert ("--env", "ASR_ATT_CTX") in pairs
    assert ("--gpus", "all") in pairs
    assert ("--env", "ASR_IMAGE") not in pairs
    assert asked[-1] == "mine:1"


def test_run_mounts_a_model_file(environment: dict[str, str], tmp_path: Path) -> None:
    model = tmp_path / "my model.nemo"
    model.touch()
    asked = run(
        environment, ROOT / "docker" / "run.sh", "cpu", "service", ASR_MODEL=str(model)
    ).stdout.splitlines()
    assert f"{model}:/model/my model.nemo:ro" in asked
    assert "ASR_MODEL=/model/my model.nemo" in asked
    assert "--gpus" not in asked
    assert asked[-2:] == ["asr-service:cpu", "service"]

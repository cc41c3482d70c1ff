"""What can be checked of the images without an engine: syntax, what is copied, what compose says."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_common.settings import describe
from asr_service.config import Settings
from tests.support.process import ROOT
from ws_bridge.config import Settings as BridgeSettings

DOCKERFILES = [ROOT / "docker" / "Dockerfile", ROOT / "docker" / "Dockerfile.cpu"]
SCRIPTS = [*sorted((ROOT / "docker").glob("*.sh")), ROOT / ".ci" / "run"]


def tool(name: str) -> str:
    """A program of the environment; the test is skipped where its wheel does not exist."""
    path = shutil.which(name) or shutil.which(name, path=str(ROOT / ".venv" / "bin"))
    if path is None:
        pytest.skip(f"{name} is not installed: requirements-dev.lock has it for Linux on x86-64 only")
    return path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_executable_and_lints_clean(script: Path) -> None:
    assert script.stat().st_mode & 0o111, f"chmod +x {script}"
    subprocess.run([tool("shellcheck"), script], check=True)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_lints_clean(dockerfile: Path) -> None:
    subprocess.run([tool("hadolint"), "--no-color", dockerfile], check=True)


def copied(dockerfile: Path) -> list[str]:
    """Sources of every COPY from the build context."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", dockerfile.read_text(), re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_is_not_ignored(dockerfile: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert lines.count("*") == 1, "everything is left out but what is named"
    for source in copied(dockerfile):
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in admitted), f"{source} is ignored"


def test_both_dockerfiles_do_the_same_on_their_bases() -> None:
    def instructions(path: Path) -> set[str]:
        text = path.read_text().replace("\\\n", " ")
        kept = [
            " ".join(line.split())
            for line in text.splitlines()
            if re.match(r"(COPY|ARG|USER|CMD|ENTRY|HEALTH)", line)
        ]
        return {line for line in kept if not line.startswith(("ARG BASE", "ARG TORCH_INDEX"))}

    assert instructions(DOCKERFILES[0]) == instructions(DOCKERFILES[1])


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_nobody_in_particular_and_tells_its_health(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert users and users[-1].isdigit() and int(users[-1]) > 0
    assert "HEALTHCHECK" in text and "healthcheck.py" in text


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_needs_no_registry_but_for_its_base_and_hides_no_model(dockerfile: Path) -> None:
    """A line of syntax would fetch a frontend; a volume would lie over the models that were put in."""
    text = dockerfile.read_text()
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}", "build"}
    assert not re.search(r"^VOLUME", text, re.MULTILINE)
    assert "ASR_SHARED_MODELS=/opt/asr/models" in text and "HF_HUB_CACHE=/models/opt/asr/models" in text
    assert "ARG PREFETCH_MODEL" in text and "ARG HF_ENDPOINT" in text


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_secret_or_of_one_machine_is_mounted_and_never_an_argument(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    secrets = set(re.findall(r"type=secret,id=(\w+)", text))
    assert secrets == {"pip_conf", "ca_certificates", "hf_token"}
    arguments = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
    assert arguments == {"BASE", "TORCH_INDEX", "WITH_NEMO", "PREFETCH_MODEL", "HF_ENDPOINT"}


def compose(*names: str) -> list[dict[str, Any]]:
    return [yaml.safe_load((ROOT / "docker" / name).read_text()) for name in names]


def test_compose_sets_only_what_the_programs_read() -> None:
    (base,) = compose("compose.yaml")
    known = {
        "service": {f"ASR_{name.upper()}" for name in Settings.model_fields},
        "bridge": {f"ASR_{name.upper()}" for name in BridgeSettings.model_fields},
    }
    ours = {name: service for name, service in base["services"].items() if "profiles" not in service}
    assert set(ours) == set(known)
    for name, service in ours.items():
        of_the_shell = {variable for variable, value in service["environment"].items() if value is None}
        assert of_the_shell <= {"HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"}, "of the hub's library"
        assert set(service["environment"]) - of_the_shell <= known[name]
        assert service["command"] == [name], "a role of docker/entrypoint.sh"
        # A dependant is stopped before what it depends on: they would drain one after the other.
        assert "depends_on" not in service
        grace = re.fullmatch(r"\$\{STOP_GRACE:-(\d+)s\}", service["stop_grace_period"])
        assert grace is not None
        drain, close = (
            Settings.model_fields["drain_s"].default,
            BridgeSettings.model_fields["bridge_close_s"].default,
        )
        assert int(grace.group(1)) == drain + close + 5


def test_the_defaults_of_compose_are_those_of_the_programs() -> None:
    (base,) = compose("compose.yaml")
    ours = [
        (Settings, base["services"]["service"]["environment"]),
        (BridgeSettings, base["services"]["bridge"]["environment"]),
    ]
    for settings, variable, value in [(kind, *item) for kind, given in ours for item in given.items()]:
        if "METRICS_" in variable or variable == "ASR_GRPC_TARGET":
            continue  # containers meet in a network of their own
        if value is None:
            continue  # as in the shell
        match = re.fullmatch(r"\$\{(\w+):-(.*)\}", value)
        assert match is not None and match.group(1) == variable
        if variable == "ASR_LOG_FORMAT":
            continue  # containers log for collectors
        default = settings.model_fields[variable.removeprefix("ASR_").lower()].default
        docs = {doc.variable: doc.default for doc in describe(settings)}
        assert match.group(2) == ("" if default is None else docs[variable])


def test_the_bridge_finds_the_service_and_ports_match() -> None:
    (base,) = compose("compose.yaml")
    port = Settings.model_fields["grpc_port"].default
    assert base["services"]["bridge"]["environment"]["ASR_GRPC_TARGET"] == f"service:{port}"
    assert base["services"]["service"]["ports"] == [f"${{ASR_GRPC_PORT:-{port}}}:{port}"]
    bridge_port = BridgeSettings.model_fields["port"].default
    assert base["services"]["bridge"]["ports"] == [f"${{ASR_PORT:-{bridge_port}}}:{bridge_port}"]


def test_the_gpu_overlay_changes_services_that_exist() -> None:
    base, overlay = compose("compose.yaml", "compose.gpu.yaml")
    assert set(overlay["services"]) <= set(base["services"])
    devices = overlay["services"]["service"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "${GPUS:-1}", "capabilities": ["gpu"]}]
    assert (ROOT / overlay["services"]["service"]["build"]["dockerfile"]).exists()


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_a_compose_file_follows_the_specification(name: str) -> None:
    checker = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*checker, ROOT / "docker" / name], check=True)


def test_compose_files_are_what_the_client_takes() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("no docker client with the compose plugin")
    files = ["-f", "docker/compose.yaml", "-f", "docker/compose.gpu.yaml"]
    subprocess.run([docker, "compose", *files, "config", "--quiet"], cwd=ROOT, check=True)

"""The scripts of docker/, run outside a container; `docker` itself is a script that writes down what it was asked."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from asr_common import server_process
from asr_service.app.supervisor import ENGINE_STOP_S, LAST_WORDS_S
from asr_service.config import Settings
from testbed.processes import free_port
from tests.support.bridge import Bridge
from tests.support.certificates import Authority
from tests.support.process import PATIENCE_S, ROOT, AsrService, ServerProcess, clean_environment
from ws_bridge.config import Settings as BridgeSettings

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
    # TMPDIR: where entrypoint.sh notes its role. And no settings of the hub's library, which run.sh hands on.
    hub = dict.fromkeys(("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"), "")
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    return clean_environment(PATH=path, TMPDIR=tmp_path, **hub)


def run(environment: dict[str, str], *command: object, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env=environment | settings,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize(("role", "program"), [("service", "asr-service"), ("bridge", "asr-bridge")])
def test_a_role_is_a_program_with_its_options(environment: dict[str, str], role: str, program: str) -> None:
    done = run(environment, ENTRYPOINT, role, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {program} ")


def test_options_of_both_at_once_are_refused(environment: dict[str, str]) -> None:
    done = run(environment, ENTRYPOINT, "all", "--port", "1")
    assert done.returncode == 2
    assert "ASR_*" in done.stderr


def test_anything_else_is_a_command_and_replaces_the_script(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [ENTRYPOINT, "sh", "-c", "echo $$; exit 7"], env=environment, stdout=subprocess.PIPE
    ) as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
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
            asking = partial(ask, "bridge", ASR_BRIDGE_TLS_CERT=cert, ASR_PORT=str(bridge.port))
            until_healthy(asking)
            service.stop()
            done = asking()
    assert done.returncode == 1
    assert "503" in done.stdout


def until_healthy(ask: Callable[[], subprocess.CompletedProcess[str]]) -> None:
    """Returns once the answer is that it serves; each question is a process and waits for its answer."""
    deadline = time.monotonic() + PATIENCE_S
    while (done := ask()).returncode != 0:
        assert time.monotonic() < deadline, done.stdout + done.stderr


@pytest.mark.parametrize("role", [(), ("nothing",), ("service", "bridge")])
def test_health_of_nothing_is_a_usage_error(environment: dict[str, str], role: tuple[str, ...]) -> None:
    done = run(environment, "python3", HEALTHCHECK, *role)
    assert done.returncode == 2
    assert "service|bridge|all" in done.stderr


class Container(server_process.ServerProcess):
    """entrypoint.sh as process 1 of a container would be."""

    def __init__(self, environment: dict[str, str], *arguments: str, **settings: str) -> None:
        super().__init__(arguments, environment | settings, program=ENTRYPOINT, cwd=ROOT)

    def __exit__(self, *error: object) -> None:
        self.stop()  # a supervisor takes its programs along


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_a_container_without_arguments_serves_both_and_stops_both(
    environment: dict[str, str], tmp_path: Path, host: str
) -> None:
    """From entrypoint to exit code; the health check, started beside it, is of both, at the address they have."""
    if host != "127.0.0.1" and sys.platform != "linux":
        pytest.skip("other systems have one loopback address")
    settings = {
        "ASR_MODEL": "null",
        "ASR_HOST": host,
        "ASR_GRPC_PORT": str(free_port()),
        "ASR_PORT": str(free_port()),
    }
    ask = partial(run, environment, "python3", HEALTHCHECK, **settings)
    with Container(environment, **settings) as process:
        process.wait_line("serving grpc")
        until_healthy(ask)
        assert (tmp_path / "asr-role").read_text() == "all\n"
        assert process.stop() == 0
    assert ask().returncode == 1


def test_the_health_of_a_container_is_that_of_its_role(environment: dict[str, str]) -> None:
    """A bridge asks for its service, which is not there; it does not ask for one in its own container."""
    settings = {
        "ASR_HOST": "127.0.0.1",
        "ASR_PORT": str(free_port()),
        "ASR_GRPC_TARGET": "127.0.0.1:1",
    }
    with Container(environment, "bridge", **settings) as process:
        process.wait_line("listening")
        done = run(environment, "python3", HEALTHCHECK, **settings)
    assert done.returncode == 1
    assert "/readyz" in done.stdout and "503" in done.stdout


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
    settings = {"PREFETCH_MODEL": "a/b", "HF_ENDPOINT": "http://hub.example"}
    asked = run(environment, ROOT / "docker" / "build.sh", *arguments, **settings).stdout.split()
    assert asked[:5] == ["build", "--file", file, "--tag", tag]
    assert values(asked, "--build-arg") == ["PREFETCH_MODEL=a/b", "HF_ENDPOINT=http://hub.example"]
    assert asked[9:-1] == list(arguments[1:])
    assert asked[-1] == "."


def test_build_refuses_another_flavour(environment: dict[str, str]) -> None:
    done = run(environment, ROOT / "docker" / "build.sh", "rocm")
    assert done.returncode == 2
    assert "neither cuda nor cpu" in done.stderr


def asked_of_docker(environment: dict[str, str], *arguments: str, **settings: str) -> list[str]:
    """What run.sh asks docker for."""
    done = run(environment, ROOT / "docker" / "run.sh", *arguments, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def values(asked: list[str], option: str) -> list[str]:
    """What an option was given, each time."""
    return [value for name, value in itertools.pairwise(asked) if name == option]


@pytest.mark.parametrize("script", ["build.sh", "run.sh"])
def test_another_engine_is_taken_where_it_is_named(environment: dict[str, str], script: str) -> None:
    done = run(environment, ROOT / "docker" / script, "cpu", CONTAINER_ENGINE="/no/such/podman")
    assert done.returncode == 127 and "/no/such/podman" in done.stderr


def test_the_help_of_run_tells_of_the_page(environment: dict[str, str]) -> None:
    assert "http://localhost:8080/" in run(environment, ROOT / "docker" / "run.sh", "--help").stdout


def test_run_hands_on_the_settings(environment: dict[str, str]) -> None:
    settings = {"ASR_ATT_CTX": "70,6", "ASR_MAX_STREAMS": "", "ASR_IMAGE": "mine:1", "ASR_API_KEY": "secret"}
    asked = asked_of_docker(environment, **settings)
    assert asked[:2] == ["run", "--rm"]
    assert values(asked, "--env") == ["ASR_ATT_CTX"], "not what is empty, this script's or a client's"
    assert asked[-1] == "mine:1"
    asked = asked_of_docker(environment, HF_TOKEN="secret", HF_HUB_OFFLINE="1")
    assert values(asked, "--env") == ["HF_HUB_OFFLINE", "HF_TOKEN"] and "secret" not in "".join(asked)


@pytest.mark.parametrize(
    ("role", "ports", "gpus"),
    [
        ((), ["6000:6000", "9090:9090"], ["all"]),
        (("all",), ["6000:6000", "9090:9090"], ["all"]),
        (("service", "--att-ctx", "70,6"), ["6000:6000"], ["all"]),
        (("bridge",), ["9090:9090"], []),
        (("python3", "-V"), [], ["all"]),
    ],
)
def test_run_publishes_and_asks_for_what_the_role_needs(
    environment: dict[str, str], role: tuple[str, ...], ports: list[str], gpus: list[str]
) -> None:
    """Service and bridge run side by side: neither takes the other's port."""
    settings = {"ASR_GRPC_PORT": "6000", "ASR_PORT": "9090"}
    asked = asked_of_docker(environment, "cuda", *role, **settings)
    assert values(asked, "--publish") == ports
    assert values(asked, "--gpus") == gpus
    assert asked[len(asked) - len(role) - 1 :] == ["asr-service:cuda", *role]
    assert "--gpus" not in asked_of_docker(environment, "cpu", *role, **settings)


def test_run_publishes_where_the_hosts_of_this_machine_say(environment: dict[str, str]) -> None:
    """In the container the ports have to be open to docker; on the machine, to whom the settings say."""
    asked = asked_of_docker(environment, "cpu", "service", ASR_METRICS_PORT="9464", ASR_HOST="::1")
    assert values(asked, "--publish") == ["[::1]:50051:50051", "127.0.0.1:9464:9464"]
    assert sorted(values(asked, "--env")) == ["ASR_METRICS_HOST=0.0.0.0", "ASR_METRICS_PORT"]
    settings = {"ASR_METRICS_PORT": "9464", "ASR_METRICS_HOST": "10.0.0.5"}
    assert "10.0.0.5:9464:9464" in asked_of_docker(environment, "cpu", **settings)
    assert values(asked_of_docker(environment, "cpu", "bridge", **settings), "--publish") == ["8080:8080"]
    asked = asked_of_docker(environment, "cpu", "bridge", ASR_BRIDGE_METRICS_PORT="9465")
    assert values(asked, "--publish") == ["8080:8080", "127.0.0.1:9465:9465"]
    assert "ASR_BRIDGE_METRICS_HOST=0.0.0.0" in values(asked, "--env")
    assert "--publish" not in asked_of_docker(environment, "cpu", "sh", ASR_METRICS_PORT="0")


def test_run_tells_a_bridge_of_its_own_where_the_service_is(environment: dict[str, str]) -> None:
    asked = asked_of_docker(environment, "cpu", "bridge", ASR_GRPC_PORT="6000")
    assert "ASR_GRPC_TARGET=host.docker.internal:6000" in values(asked, "--env")
    assert values(asked, "--add-host") == ["host.docker.internal:host-gateway"]
    asked = asked_of_docker(environment, "cpu", "bridge", ASR_GRPC_TARGET="asr.example.com:50051")
    assert (values(asked, "--env"), values(asked, "--add-host")) == (["ASR_GRPC_TARGET"], [])


@pytest.mark.parametrize(
    ("settings", "timeout"),
    [({}, 45), ({"ASR_DRAIN_S": "120.5", "ASR_BRIDGE_CLOSE_S": "20"}, 145), ({"ASR_DRAIN_S": "0"}, 15)],
)
def test_run_gives_streams_the_time_that_the_settings_give_them(
    environment: dict[str, str], settings: dict[str, str], timeout: int
) -> None:
    assert values(asked_of_docker(environment, **settings), "--stop-timeout") == [str(timeout)]


def test_the_time_to_stop_is_that_of_the_programs() -> None:
    drain, close = Settings.model_fields["drain_s"], BridgeSettings.model_fields["bridge_close_s"]
    assert drain.default == BridgeSettings.model_fields["drain_s"].default
    assert drain.default + close.default + LAST_WORDS_S + ENGINE_STOP_S <= 45


FILES = [
    f"ASR_{name.upper()}"
    for fields in (Settings.model_fields, BridgeSettings.model_fields)
    for name, field in fields.items()
    if "Path" in str(field.annotation) and "ready_file" not in name
]


@pytest.mark.parametrize("variable", ["ASR_MODEL", *FILES])
def test_run_mounts_every_file_that_a_setting_names(
    environment: dict[str, str], tmp_path: Path, variable: str
) -> None:
    """Read-only, and by a path of its own, so that a link's target is what is seen."""
    file, link = tmp_path / "the file.1", tmp_path / "my model.nemo"
    file.touch()
    link.symlink_to(file)
    asked = asked_of_docker(environment, "cpu", **{variable: str(link)})
    target = "/model/my model.nemo" if variable == "ASR_MODEL" else f"/etc/asr/{variable}"
    assert f"{file}:{target}:ro" in values(asked, "--volume")
    assert values(asked, "--env") == [f"{variable}={target}"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ASR_TLS_KEY": "/no/such/key.pem"}, "ASR_TLS_KEY=/no/such/key.pem: no such file"),
        ({"ASR_DRAIN_S": "soon"}, "ASR_DRAIN_S=soon should be a number of seconds"),
    ],
)
def test_run_refuses_what_the_container_would_not_tell(
    environment: dict[str, str], settings: dict[str, str], says: str
) -> None:
    """Docker makes a folder of a path that does not exist."""
    done = run(environment, ROOT / "docker" / "run.sh", **settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_run_leaves_the_name_of_a_model_alone(environment: dict[str, str]) -> None:
    asked = asked_of_docker(environment, "cpu", "service", ASR_MODEL="nvidia/some-model")
    assert values(asked, "--env") == ["ASR_MODEL=nvidia/some-model"]


def test_run_mounts_each_file_of_several_models(environment: dict[str, str], tmp_path: Path) -> None:
    files = [tmp_path / "de.nemo", tmp_path / "my fr.nemo"]
    for file in files:
        file.touch()
    asked = asked_of_docker(environment, "cpu", ASR_MODEL=f"{files[0]}; nvidia/some-model;{files[1]};")
    for file in files:
        assert f"{file}:/model/{file.name}:ro" in values(asked, "--volume")
    assert values(asked, "--env") == ["ASR_MODEL=/model/de.nemo;nvidia/some-model;/model/my fr.nemo"]


def test_run_keeps_models_of_one_name_apart(environment: dict[str, str], tmp_path: Path) -> None:
    files = [tmp_path / folder / "model.nemo" for folder in ("de", "fr", "it")]
    for file in files:
        file.parent.mkdir()
        file.touch()
    asked = asked_of_docker(environment, "cpu", "service", ASR_MODEL=";".join(map(str, files)))
    targets = ["/model/model.nemo", "/model/2/model.nemo", "/model/3/model.nemo"]
    mounted = [f"{file}:{target}:ro" for file, target in zip(files, targets, strict=True)]
    assert set(mounted) <= set(values(asked, "--volume"))
    assert values(asked, "--env") == [f"ASR_MODEL={';'.join(targets)}"]

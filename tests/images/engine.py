"""A container engine, Docker or Podman, as a program that is run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from testbed.processes import free_port

NONE_FOUND = """\
no container engine can be used here. Needed is Docker (on Debian: apt-get install docker.io) or Podman, whose program
says something to `info`. Where the program is there and nothing runs for it, as root: --daemon FOLDER starts a dockerd
that keeps all it has in that folder, and ends it."""
DAEMON_S = 60.0
"""Longest wait for a daemon that was started."""


class EngineError(Exception):
    """There is no engine, or it refused something; the message says what."""


class Engine:
    """Runs the engine's commands.

    Attributes:
        program: docker, podman, or the path of one.
        host_network: whether containers share the host's network, where the engine has none of its own for them.
        environment: of its processes.
    """

    def __init__(self, program: str, *, host_network: bool = False, **environment: str) -> None:
        self.program = program
        self.host_network = host_network
        # BuildKit for engines that have it and do not take it by themselves; health checks for Podman's images.
        more = {"DOCKER_BUILDKIT": "1", "BUILDAH_FORMAT": "docker", "CONTAINER_ENGINE": program}
        self.environment = {**os.environ, **more, **environment}

    def run(self, *arguments: object, given: bytes | None = None) -> str:
        """Runs a command and returns what it prints.

        Raises:
            EngineError: it failed.
        """
        return self.run_program(self.program, *arguments, given=given)

    def run_program(
        self, *command: object, given: bytes | None = None, settings: Mapping[str, str] | None = None
    ) -> str:
        """Runs a program that runs the engine."""
        words = [str(word) for word in command]
        done = subprocess.run(
            words, env=self.environment | dict(settings or {}), input=given, capture_output=True
        )
        out = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            said = out + done.stderr.decode(errors="replace")
            raise EngineError(f"{' '.join(words)[:300]} ended with {done.returncode}:\n{said[-4000:]}")
        return out.strip()

    def logs(self, container: str) -> str:
        """Returns all that a container has printed."""
        done = subprocess.run(
            [self.program, "logs", container],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout.decode(errors="replace")

    def size(self, image: str) -> int:
        """Returns an image's bytes."""
        return int(self.run("image", "inspect", "--format", "{{.Size}}", image))


def find_engine(wanted: str | None) -> Engine:
    """Returns the engine that is wanted, or the first that answers.

    Raises:
        EngineError: there is none.
    """
    for program in [wanted] if wanted else ["docker", "podman"]:
        if shutil.which(program) is not None:
            engine = Engine(program)
            with contextlib.suppress(EngineError):
                engine.run("info")
                return engine
    raise EngineError(f"{wanted}: {NONE_FOUND}" if wanted else NONE_FOUND)


@contextlib.contextmanager
def own_daemon(folder: Path, program: str) -> Iterator[Engine]:
    """Starts a dockerd without networks of its own, and ends it with the block.

    Raises:
        EngineError: it does not start.
    """
    dockerd = shutil.which("dockerd")
    if dockerd is None:
        raise EngineError(f"there is no dockerd to start. {NONE_FOUND}")
    folder.mkdir(parents=True, exist_ok=True)
    socket, log = f"unix://{folder}/socket", folder / "log"
    command = [
        dockerd, "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"),
        "--pidfile", str(folder / "pid"), "--host", socket,
        "--iptables=false", "--ip6tables=false", "--bridge=none",
    ]  # fmt: skip
    with log.open("wb") as file:
        daemon = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    engine = Engine(program, host_network=True, DOCKER_HOST=socket)
    try:
        deadline = time.monotonic() + DAEMON_S
        while True:
            with contextlib.suppress(EngineError):
                engine.run("info")
                break
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise EngineError(f"dockerd does not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield engine
    finally:
        daemon.terminate()
        daemon.wait()


class Ports:
    """Where a container's two ports are on this machine.

    Attributes:
        grpc: of the service.
        websocket: of the bridge.
    """

    def __init__(self, engine: Engine) -> None:
        self.grpc, self.websocket = free_port(), free_port()
        self._host = engine.host_network

    @property
    def options(self) -> Sequence[str]:
        """What `run` is told of them."""
        if self._host:
            return (
                "--network",
                "host",
                "-e",
                f"ASR_GRPC_PORT={self.grpc}",
                "-e",
                f"ASR_PORT={self.websocket}",
            )
        return ("-p", f"127.0.0.1:{self.grpc}:50051", "-p", f"127.0.0.1:{self.websocket}:8080")

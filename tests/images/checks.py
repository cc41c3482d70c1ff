"""What an image has to do, step by step, each timed: built, started, heard over both ports, stopped, started again."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clients.demo.clips import RATE, Clip, bundled_clips
from clients.demo.servers import DemoError
from clients.demo.streams import over_grpc, over_websocket
from testbed.processes import ROOT
from tests.images.engine import Engine, EngineError, Ports
from tests.images.inside import PROGRAM
from tests.support.hub import Repository, StandInHub

FOREIGN = ("--user", "1000620000:0", "--read-only", "--tmpfs", "/tmp")
"""As clusters run images that they do not trust: a user that the image does not know, and nothing to write to."""
SERVING_S, HEALTHY_S, STOP_S = 300.0, 120.0, 45
LOOK_S = 0.1
MODEL = "images/demo"
"""What the demo model is called by the hub that stands in."""
TOKEN = "hf_of_the_build_alone"
VOLUME = "asr-images-models"
COMPILES = "compiling the encoder step"
_MB = 1e6

T = TypeVar("T")


class CheckError(Exception):
    """An image does not do what it has to."""


@dataclass
class Checks:
    """Runs steps with an engine and notes each.

    Attributes:
        engine: that runs the images.
        options: of every build: a base, an index, secrets.
        rows: step, seconds, what came of it.
        failed: steps that did not do.
    """

    engine: Engine
    options: Sequence[str]
    rows: list[tuple[str, float, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)

    def step(self, name: str, do: Callable[[], str]) -> bool:
        """Does a step, notes how long it took and what it says; returns whether it did."""
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        try:
            said = do()
        except (CheckError, EngineError, DemoError, OSError, grpc.RpcError) as error:
            self.failed.append(name)
            print(f"  FAILED: {error}", flush=True)
            said = "FAILED: " + str(error).partition("\n")[0]
        self.rows.append((name, time.monotonic() - began, said))
        print(f"  {self.rows[-1][1]:.1f} s, {said}", flush=True)
        return not said.startswith("FAILED")

    def build(self, flavour: str, image: str, *more: str, **settings: str) -> str:
        """Builds an image as docker/build.sh does; says its size."""
        command = [ROOT / "docker" / "build.sh", flavour, *self.options, *more]
        self.engine.run_program(*command, settings={"ASR_IMAGE": image, "PREFETCH_MODEL": "", **settings})
        return f"{self.engine.size(image) / _MB:.0f} MB"

    def start(self, name: str, image: str, *options: str, ports: Ports | None = None) -> str:
        """Starts a container and waits until it serves; says how long that took."""
        self.remove(name)
        self._names.append(name)
        network = ports.options if ports else ()
        began = time.monotonic()
        self.engine.run("run", "--detach", "--init", "--name", name, *network, *options, image)
        if ports is None:
            return "started"
        self.wait_serving(name, ports)
        took = time.monotonic() - began
        if COMPILES in self.engine.logs(name):
            raise CheckError("it compiled the encoder step, which should be in the image")
        return f"SERVING {took:.1f} s after `run`"

    def start_again(self, name: str, ports: Ports) -> str:
        """Starts a container that has stopped; says how long it took."""
        began = time.monotonic()
        self.engine.run("start", name)
        self.wait_serving(name, ports)
        return f"SERVING {time.monotonic() - began:.1f} s after `start`"

    def wait_serving(self, name: str, ports: Ports) -> None:
        """Waits until the service of a container says SERVING, and its bridge is ready."""
        request = health_pb2.HealthCheckRequest()
        with grpc.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            def serves() -> bool:
                try:
                    answer = stub.Check(request, timeout=5)
                except grpc.RpcError:
                    return False
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            self.wait_for(name, serves, SERVING_S, "serve")

    def wait_healthy(self, name: str) -> str:
        """Waits for the engine to say so of its health check."""

        def healthy() -> bool:
            return self.engine.run("inspect", "--format", "{{.State.Health.Status}}", name) == "healthy"

        self.wait_for(name, healthy, HEALTHY_S, "be healthy")
        return "healthy"

    def wait_for(self, name: str, true: Callable[[], bool], limit_s: float, what: str) -> None:
        """Waits until something is true of a container that runs.

        Raises:
            CheckError: it has ended, or takes too long.
        """
        deadline = time.monotonic() + limit_s
        while not true():
            if self.engine.run("inspect", "--format", "{{.State.Running}}", name) != "true":
                raise CheckError(f"the container has ended:\n{self.engine.logs(name)[-3000:]}")
            if time.monotonic() > deadline:
                raise CheckError(f"it does not {what}:\n{self.engine.logs(name)[-3000:]}")
            time.sleep(LOOK_S)

    def hear(self, ports: Ports) -> str:
        """Streams the bundled speech over both ports at the pace of a speaker; the texts have to be right."""

        async def both(clip: Clip) -> None:
            heard = await asyncio.gather(
                over_grpc(f"127.0.0.1:{ports.grpc}", clip, _ignore),
                over_websocket(f"ws://127.0.0.1:{ports.websocket}", clip, _ignore),
            )
            for way, one in zip(("gRPC", "WebSocket"), heard, strict=True):
                _compare(clip, one.text, way)

        clip = bundled_clips()[0]
        asyncio.run(both(clip))
        return f"right over gRPC and WebSocket: {clip.text!r}"

    def stop_while_speaking(self, name: str, ports: Ports) -> str:
        """Sends SIGTERM in the middle of a stream, which has to be finished, and the container to end with 0."""

        async def speak(clip: Clip) -> str:
            spoken = asyncio.Event()
            stream = asyncio.create_task(
                over_grpc(
                    f"127.0.0.1:{ports.grpc}", clip, lambda text: spoken.set() if text.strip() else None
                )
            )
            await asyncio.wait({stream, asyncio.create_task(spoken.wait())}, return_when="FIRST_COMPLETED")
            if stream.done():
                raise CheckError("the stream was over before it was to be stopped")
            await asyncio.to_thread(self.engine.run, "stop", "--time", STOP_S, name)
            return (await stream).text

        clip = bundled_clips()[0]
        _compare(clip, asyncio.run(speak(clip)), "gRPC")
        code = self.engine.run("inspect", "--format", "{{.State.ExitCode}}", name)
        if code != "0":
            raise CheckError(f"its exit code is {code}:\n{self.engine.logs(name)[-3000:]}")
        return "the stream's words are right and the exit code is 0"

    def hear_inside(self, name: str) -> str:
        """Streams a clip from within a container, which has no network to be reached by."""
        clip = bundled_clips()[0]
        command = ("exec", "--interactive", name, "python3", "-c", PROGRAM, RATE)
        _compare(clip, self.engine.run(*command, given=clip.pcm), "gRPC")
        return f"right: {clip.text!r}"

    def look_ahead(self, ports: Ports) -> str:
        """Asks what is served; says it."""
        with grpc.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            info = asr_pb2_grpc.SpeechServiceStub(channel).GetServiceInfo(
                pb.GetServiceInfoRequest(), timeout=30
            )
        if info.look_ahead_ms != 0:
            raise CheckError(f"its look-ahead is {info.look_ahead_ms} ms: ASR_ATT_CTX=70,0 had no effect")
        return "look-ahead 0 ms, as ASR_ATT_CTX=70,0 says"

    def build_with_model(self, flavour: str, image: str) -> str:
        """Builds an image with a model of a hub that wants a token, which must not be left in the image."""
        model = (ROOT / "asr_service" / "assets" / "demo.nemo").read_bytes()
        with StandInHub({MODEL: Repository({"demo.nemo": model}, gated=True, private=True)}) as hub:
            hub.tokens[TOKEN] = True
            secret = ROOT / "build" / "images-token"
            secret.parent.mkdir(exist_ok=True)
            secret.write_text(TOKEN)
            try:
                asked = ("--network", "host", "--secret", f"id=hf_token,src={secret}")
                said = self.build(flavour, image, *asked, HF_ENDPOINT=hub.endpoint, PREFETCH_MODEL=MODEL)
            finally:
                secret.unlink()
        left = self.engine.run("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
        look = f"grep -rl {TOKEN} /opt/asr/models /etc /var /run /root /home || true"
        left += self.engine.run("run", "--rm", "--network", "none", "--user", "0", image, "sh", "-c", look)
        if TOKEN in left or re.search(r"^/", left, re.MULTILINE):
            raise CheckError(f"the hub's token is left in the image: {left[-300:]}")
        return f"{said}; the token is not in it"

    def imports(self, image: str, module: str, *options: str) -> str:
        """Imports a module of an image."""
        self.engine.run(
            "run", "--rm", "--network", "none", *options, image, "python3", "-c", f"import {module}"
        )
        return f"import {module}: no error"

    def has_python(self, image: str, *version: int) -> bool:
        """Returns whether an image's Python is of a version or newer."""
        ask = f"import sys; print(sys.version_info >= {version})"
        return self.engine.run("run", "--rm", "--network", "none", image, "python3", "-c", ask) == "True"

    def history(self, image: str) -> list[tuple[str, str]]:
        """Returns the layers of an image that hold something: size, and the instruction."""
        lines = self.engine.run("history", "--format", "{{.Size}}\t{{.CreatedBy}}", image).splitlines()
        rows = [line.partition("\t")[::2] for line in lines]
        return [(size, made) for size, made in rows if not re.fullmatch(r"0 ?B", size)]

    def remove(self, name: str) -> None:
        """Removes a container, if it is there."""
        try:
            self.engine.run("rm", "--force", "--volumes", name)
        except EngineError:
            pass

    def clean_up(self) -> None:
        """Removes all containers of these checks, and their volume."""
        for name in self._names:
            self.remove(name)
        try:
            self.engine.run("volume", "rm", "--force", VOLUME)
        except EngineError:
            pass


def _ignore(text: str) -> None:
    pass


def _compare(clip: Clip, text: str, way: str) -> None:
    if text.strip() != clip.text:
        raise CheckError(f"over {way} it heard {text.strip()!r} where {clip.text!r} is said")

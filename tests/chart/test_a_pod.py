"""A pod of the chart without its cluster: the programs with the variables that it gives them, probed as it says."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from asr.v1 import asr_pb2_grpc

from testbed.processes import free_port
from tests.chart.environment import is_built
from tests.chart.releases import Manifest, Release, render
from tests.support.audio import speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, talk
from tests.support.process import PATIENCE_S, AsrService
from tests.support.rpc import Stub, audio, config, text, transcribe

PCM = speechlike(1.0)
# Where nothing but this machine is reached, with ports that are free here.
HERE = {"ASR_HOST", "ASR_METRICS_HOST", "ASR_BRIDGE_METRICS_HOST"}


@pytest.fixture(scope="module")
def pod() -> Release:
    """The null model on a CPU, service and bridge in one pod."""
    if not is_built():
        pytest.skip("Helm's engine is not here: make chart fetches it")
    values = {
        "device": "cpu",
        "model": {"source": "image", "name": "null"},
        "bridge": {"mode": "sidecar"},
        "service": {"settings": {"ASR_MAX_STREAMS": 4}},
    }
    release = render({"pod": values})["pod"]
    assert isinstance(release, Release)
    return release


def ports(container: Manifest) -> dict[int, int]:
    """A port that is free here for each of a container's."""
    return {port["containerPort"]: free_port() for port in container["ports"]}


def variables(release: Release, name: str, moved: Mapping[int, int]) -> dict[str, Any]:
    """What a container's program is told, with ports of this machine."""
    told: dict[str, Any] = dict(release.variables("service", name)) | dict.fromkeys(HERE, "127.0.0.1")
    for variable, value in told.items():
        for theirs, mine in moved.items():
            if value in (str(theirs), f"localhost:{theirs}"):
                told[variable] = value.replace(str(theirs), str(mine))
    return told


async def passes(container: Manifest, kind: str, moved: Mapping[int, int]) -> bool:
    """Whether a probe does, as the kubelet would ask."""
    probe = container[kind]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    url = f"http://127.0.0.1:{moved[named[probe['httpGet']['port']]]}{probe['httpGet']['path']}"

    def ask() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=probe["timeoutSeconds"]) as page:
                return bool(200 <= page.status < 400)
        except (urllib.error.URLError, OSError):
            return False

    return await asyncio.to_thread(ask)


async def until(container: Manifest, kind: str, moved: Mapping[int, int], wanted: bool = True) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await passes(container, kind, moved) is not wanted:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.05)


async def test_it_starts_serves_drains_and_ends_as_the_chart_says(pod: Release) -> None:
    service, bridge = pod.container("service", "service"), pod.container("service", "bridge")
    moved = ports(service) | ports(bridge)
    with (
        AsrService(wait=False, **variables(pod, "service", moved)) as serving,
        await asyncio.to_thread(lambda: Bridge("", **variables(pod, "bridge", moved))) as bridging,
    ):
        for container in (service, bridge):
            await until(container, "startupProbe", moved)
            await until(container, "readinessProbe", moved)
            assert await passes(container, "livenessProbe", moved)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{moved[50051]}") as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, PCM)
            assert (await talk(bridging, [INIT, PCM, CLOSE])).final["text"] == expected
            held = stub.Recognize()
            await held.write(config())
            await held.initial_metadata()

            # After preStop, the kubelet tells both at the same time.
            serving.signal()
            bridging.signal()
            await until(service, "readinessProbe", moved, wanted=False)
            assert await passes(service, "livenessProbe", moved)
            await held.write(audio(PCM))
            await held.done_writing()
            responses: list[Any] = []
            while (response := await held.read()) is not grpc.aio.EOF:
                responses.append(response)
            assert text(responses) == expected
        assert [await asyncio.to_thread(one.wait) for one in (serving, bridging)] == [0, 0]

"""A model of the hub, from its first start to starts without the hub: the demo model, served by a stand-in."""

from __future__ import annotations

import json
import os
import signal
import wave
from collections.abc import Mapping
from pathlib import Path

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from asr_service.model.hub.progress import amount
from asr_service.model.locate import DEMO_MODEL
from tests.support.hub import Repository, StandInHub, environment
from tests.support.process import PATIENCE_S, ROOT, AsrService, ServerProcess
from tests.support.rpc import transcribe

pytest.importorskip("huggingface_hub", reason="the model's packages are not installed: make setup")

CLIPS = ROOT / "asr_service/assets/clips"
ONE_STREAM = {"ASR_MAX_STREAMS": 1, "ASR_THREADS": 1}


async def heard(service: AsrService, name: str) -> str:
    """What a service that serves the hub's model of this name hears in a clip."""
    clip = json.loads((CLIPS / "clips.jsonl").read_text().splitlines()[0])
    with wave.open(str(CLIPS / clip["file"])) as wav:
        rate, pcm = wav.getframerate(), wav.readframes(wav.getnframes())
    async with grpc.aio.insecure_channel(service.target) as channel:
        stub = asr_pb2_grpc.SpeechServiceStub(channel)
        assert (await stub.GetServiceInfo(pb.GetServiceInfoRequest())).model == name
        return await transcribe(stub, pcm, sample_rate_hertz=rate)


async def served(name: str, variables: Mapping[str, str]) -> tuple[str, list[str]]:
    """What a service with a hub's model hears in a clip, and what it logs from start to stop."""
    with AsrService(ASR_MODEL=name, **ONE_STREAM, **variables, wait=False) as service:
        service.wait_ready(PATIENCE_S)
        words = await heard(service, name)
        service.signal()
        assert service.wait() == 0
        return words, service.lines


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
async def test_the_first_start_fetches_and_the_second_needs_no_hub(tmp_path: Path) -> None:
    with StandInHub(
        {"org/demo": Repository({"README.md": b"", "demo.nemo": DEMO_MODEL.read_bytes()})}
    ) as hub:
        variables = environment(hub, tmp_path / "home")
        words, lines = await served("org/demo", variables)
        assert words and len(hub.downloads()) == 1
        size = amount(DEMO_MODEL.stat().st_size)
        assert any(f"fetching org/demo: demo.nemo, {size}" in line for line in lines)
        assert [line for line in lines if "Traceback" in line or "%|" in line] == []
        hub.close()
        hub.requests.clear()
        assert (await served("org/demo", variables | {"HF_HUB_OFFLINE": "1"}))[0] == words
        again, lines = await served("org/demo", variables)
        assert again == words
        assert len([line for line in lines if "from the cache is used: " in line]) == 1
        assert hub.requests == []


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
async def test_an_engine_that_is_started_again_has_the_model_that_it_had(tmp_path: Path) -> None:
    """Though its hub has another one by then, and another program with the same cache has fetched that."""
    repository = Repository({"demo.nemo": DEMO_MODEL.read_bytes()})
    with StandInHub({"org/demo": repository}) as hub:
        variables = environment(hub, tmp_path)
        with AsrService(ASR_MODEL="org/demo", **ONE_STREAM, **variables, wait=False) as service:
            service.wait_ready(PATIENCE_S)
            words = await heard(service, "org/demo")
            old, repository.commit = repository.commit, "b" * 40
            repository.files["demo.nemo"] = b"another model"
            with ServerProcess(["docker/prefetch.py", "org/demo"], **variables) as prefetch:
                assert prefetch.wait() == 0 and repository.commit in prefetch.output
            hub.requests.clear()
            os.kill(service.engine, signal.SIGKILL)
            service.wait_line("everything runs again", PATIENCE_S)
            assert words and await heard(service, "org/demo") == words
            assert hub.requests == []
            assert f"org/demo@{old}: revision {old} is in the cache" in service.output
            service.signal()
            assert service.wait() == 0


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [("org/demo", 1, "cannot be reached"), ("org/demo.git", 2, "which names no model: write owner/name")],
)
def test_no_hub_is_no_error_of_the_settings(name: str, code: int, said: str, tmp_path: Path) -> None:
    hub = StandInHub({})
    hub.close()
    with AsrService(ASR_MODEL=name, **environment(hub, tmp_path), **ONE_STREAM, wait=False) as service:
        assert service.wait() == code
    assert (
        len([line for line in service.lines if " ERROR   asr_service.app.service: ASR_MODEL " in line]) == 1
    )
    assert said in service.output and "Traceback" not in service.output


def test_a_model_for_an_image_is_fetched_by_the_same_code(tmp_path: Path) -> None:
    with StandInHub({"org/demo": Repository({"demo.nemo": b"a model"})}) as hub:
        for name, code, said in (
            ("org/demo", 0, f"org/demo is in {tmp_path}/hub/models--org--demo/snapshots/"),
            ("org/none", 2, "prefetch.py: ASR_MODEL: the hub at "),
            ("demo", 0, "nothing to fetch"),
        ):
            with ServerProcess(["docker/prefetch.py", name], **environment(hub, tmp_path)) as prefetch:
                assert prefetch.wait() == code, prefetch.output
                assert said in prefetch.output
        hub.close()
        with ServerProcess(["docker/prefetch.py", "org/none"], **environment(hub, tmp_path)) as prefetch:
            assert prefetch.wait() == 1 and "cannot be reached" in prefetch.output

"""What is installed from a wheel, with what it asks for: it serves, names itself, and says what is missing."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from asr_common.server_process import ServerProcess
from asr_service.model.cpu_encoder.machine_code import code_folder
from tests.support.installed import Environment, build
from tests.support.process import ROOT, SERVING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLIPS = ROOT / "asr_service/assets/clips"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's wheel."""
    return build(ROOT, tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the service and no extra."""
    return Environment(tmp_path_factory.mktemp("bare") / "venv", wheel)


@contextmanager
def serving(environment: Environment, model: str, **settings: object) -> Iterator[tuple[str, str]]:
    """The installed programs: addresses of the gRPC port and of the bridge."""
    common = {"ASR_HOST": "127.0.0.1", "ASR_DEVICE": "cpu", "ASR_DRAIN_S": 5} | settings
    with ExitStack() as held:

        def start(program: str, says: str, **own: object) -> str:
            variables = environment.variables(**common, **own)
            path = environment.program(program)
            process = held.enter_context(ServerProcess([], variables, program=path, cwd=environment.folder))
            return process.wait_started(says).group(1)

        target = start("asr-service", SERVING, ASR_MODEL=model, ASR_GRPC_PORT=0, ASR_MAX_STREAMS=4)
        port = start("asr-bridge", r"listening\b.*\bport\W+(\d+)", ASR_PORT=0, ASR_GRPC_TARGET=target)
        yield target, f"ws://127.0.0.1:{port}"


def heard(environment: Environment, target: str, url: str, clip: Path) -> tuple[str, str]:
    """The finals of a clip that the clients print which users copy, over both ports."""

    def last_line(*command: object) -> str:
        done = environment.run("python", *command)
        assert done.returncode == 0, done.stderr
        return re.sub(r" *\[\w+\]$", "", done.stdout.splitlines()[-1].strip())

    over_grpc = last_line(ROOT / "clients/grpc_client_wav.py", "--fast", "--target", target, clip)
    return over_grpc, last_line(ROOT / "clients/ws_client_wav.py", "--fast", clip, url)


def test_without_extras_it_serves_the_null_model_and_says_what_is_missing_for_more(bare: Environment) -> None:
    with serving(bare, "null") as (target, url):
        over_grpc, over_websocket = heard(bare, target, url, CLIPS / "clip1.wav")
        assert len(over_grpc.split()) > 10 and over_grpc == over_websocket

        with grpc.insecure_channel(target) as channel:
            stub = asr_pb2_grpc.SpeechServiceStub(channel)
            encodings = stub.GetServiceInfo(pb.GetServiceInfoRequest()).encodings
            assert pb.AUDIO_ENCODING_LINEAR16 in encodings and pb.AUDIO_ENCODING_FLAC not in encodings
            config = pb.RecognitionConfig(encoding=pb.AUDIO_ENCODING_FLAC)
            with pytest.raises(grpc.RpcError) as refused:
                list(stub.Recognize(iter([pb.RecognizeRequest(config=config)])))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "PyAV is not installed beside it (pip install 'asr-service[compressed]')" in str(
        refused.value.details()
    )

    told = bare.run("asr-service", ASR_MODEL="demo", ASR_GRPC_PORT=0)
    assert told.returncode == 2 and "Traceback" not in told.stderr
    assert "ASR_MODEL=demo: recognition needs torch, numba, " in told.stderr
    assert "pip install 'asr-service[model]'" in told.stderr


@pytest.mark.usefixtures("compiled")
def test_with_the_extra_model_it_recognizes(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv", wheel, "model")
    # Of the same sources it would be the same.
    machine_code = code_folder()
    assert machine_code is not None
    with serving(environment, "demo", NUMBA_CACHE_DIR=machine_code.parent, ASR_THREADS=1) as (target, url):
        first = json.loads((CLIPS / "clips.jsonl").read_text().splitlines()[0])
        assert heard(environment, target, url, CLIPS / first["file"]) == (first["text"], first["text"])


@pytest.mark.parametrize("program", ["asr-service", "asr-bridge"])
def test_the_programs_call_themselves_by_their_names(bare: Environment, program: str) -> None:
    done = bare.run(program, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {program} ")
    assert "python -m" not in done.stdout.partition("\n\n")[0] and "__main__" not in done.stdout
    other = {"asr-service", "asr-bridge"} - {program}
    assert f"{other.pop()} --help" in done.stdout


def test_the_doctor_knows_what_is_missing(bare: Environment) -> None:
    done = bare.run("asr-service", "doctor", ASR_MODEL="demo")
    assert done.returncode == 1 and "torch missing" in done.stdout
    assert "asr-service[model]" in done.stdout


def test_the_wheel_has_its_data_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        *("asr", "asr_common", "asr_service", "ws_bridge")
    }
    for path in [*(ROOT / "asr_service").rglob("*"), *(ROOT / "ws_bridge").rglob("*")]:
        # Pages for engineers stay in the repository.
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
            assert str(path.relative_to(ROOT)) in names
    stubs = {
        str(path.relative_to(ROOT / "proto/python")) for path in (ROOT / "proto/python/asr").rglob("*.py*")
    }
    assert {name for name in stubs if "__pycache__" not in name} <= set(names), "types included"

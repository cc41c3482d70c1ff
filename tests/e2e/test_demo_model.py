"""The service with the bundled demo model: what it says of itself; its silence is in the fault suite."""

from __future__ import annotations

import re

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from tests.support.process import PATIENCE_S, AsrService


@pytest.mark.usefixtures("compiled")
async def test_a_healthy_console_and_the_documented_look_ahead() -> None:
    """Without a GPU and without a word about it: one warning. NeMo's own notices never reach the console."""
    settings = {"ASR_MODEL": "demo", "ASR_ATT_CTX": "70,16", "ASR_MAX_STREAMS": 1, "ASR_THREADS": 1}
    with AsrService(**settings, ASR_DEVICE="", CUDA_VISIBLE_DEVICES="", wait=False) as service:
        service.wait_ready(PATIENCE_S)
        async with grpc.aio.insecure_channel(service.target) as channel:
            info = await asr_pb2_grpc.SpeechServiceStub(channel).GetServiceInfo(pb.GetServiceInfoRequest())
        assert list(info.att_context) == [70, 6] and info.look_ahead_ms == 480
        service.signal()
        assert service.wait(120) == 0
    assert len([line for line in service.lines if "no GPU found" in line]) == 1
    assert len([line for line in service.lines if "70,16" in line]) == 1
    ours = re.compile(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 (INFO |WARNING) +(asr_service|ws_bridge)[.\w]*: "
    )
    assert [line for line in service.lines if not ours.match(line)] == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"ASR_DEVICE": "cuda:93"}, "ASR_DEVICE is 'cuda:93', but this machine has"),
        (
            {"ASR_MODEL": "nvidia/no-such-model", "HF_HUB_OFFLINE": 1},
            "ASR_MODEL nvidia/no-such-model is not in",
        ),
    ],
)
def test_what_cannot_be_served_ends_the_process_with_a_sentence(
    setting: dict[str, object], said: str
) -> None:
    with AsrService(**({"ASR_MODEL": "demo"} | setting), wait=False) as service:
        assert service.wait(300) == 2
    assert len([line for line in service.lines if said in line]) == 1, service.output
    assert "Traceback" not in service.output

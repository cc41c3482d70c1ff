"""A service of several engines and front ends that cannot start ends as a whole, with one sentence about why."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from testbed.processes import children, children_by_name, free_port
from tests.support.certificates import Authority
from tests.support.hub import StandInHub, environment
from tests.support.process import AsrService, gone

MANY: dict[str, Any] = {"ASR_FRONT_ENDS": 3, "ASR_ENGINES": 2}
BAD_NEWS = ("WARNING", "ERROR", "CRITICAL")


def bad_news(service: AsrService) -> list[str]:
    """The lines of a service's log that tell of something wrong, without their times."""
    assert "Traceback" not in service.output
    return [line.split(maxsplit=1)[1] for line in service.lines if line.split()[1] in BAD_NEWS]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"ASR_MODEL": "null;/no/such.nemo", "ASR_ATT_CTX": "70,1;70,13"},
            "asr_service.app.service: ASR_MODEL names a file that does not exist: /no/such.nemo",
        ),
        (
            {"ASR_MODEL": "null", "ASR_ATT_CTX": "70,1;70,5"},
            "asr_service.app.service: ASR_ATT_CTX=70,5: this model does not have it.",
        ),
        (
            {"ASR_API_KEYS_FILE": "/no/such.keys"},
            "asr_service.app.service: ASR_API_KEYS_FILE=/no/such.keys: No such file",
        ),
    ],
)
def test_what_cannot_be_served_is_told_once(settings: dict[str, Any], says: str) -> None:
    """However many processes find it out."""
    with AsrService(**MANY, **settings, wait=False) as service:
        assert service.wait() == 2
        (line,) = bad_news(service)
        assert says in line


def test_a_certificate_without_its_key_is_told_once(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    cert, _ = ca.issue("one")
    _, key = ca.issue("other")
    with AsrService(**MANY, ASR_TLS_CERT=cert, ASR_TLS_KEY=key, wait=False) as service:
        assert service.wait() == 2
        (line,) = bad_news(service)
        assert "KEY_VALUES_MISMATCH" in line


def test_a_hub_that_is_away_is_no_error_of_the_settings(tmp_path: Path) -> None:
    hub = StandInHub({})
    hub.close()
    with AsrService(**MANY, ASR_MODEL="null;org/demo", **environment(hub, tmp_path), wait=False) as service:
        assert service.wait() == 1
        (line,) = bad_news(service)
        assert "ASR_MODEL org/demo" in line and "cannot be reached" in line


@pytest.mark.parametrize("name", ["ASR_GRPC_PORT", "ASR_METRICS_PORT"])
def test_a_port_that_is_taken_is_told_before_anything_is_started(name: str) -> None:
    ports: dict[str, Any] = {name: free_port()}
    with AsrService(**MANY, **ports), AsrService(**MANY, **ports, wait=False) as second:
        assert second.wait() == 2
        (line,) = bad_news(second)
        assert name in line and str(ports[name]) in line
        assert len(second.lines) == 1, "no engine was started for it"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_once_while_models_are_made(number: signal.Signals) -> None:
    with AsrService(**MANY, FAULT="load", wait=False) as service:
        service.wait_line("listens on", count=3)
        processes = children(service.pid)
        assert len(processes) == 5
        service.signal(number)
        assert service.wait() == 0
        assert bad_news(service) == []
        assert all(gone(process) for process in processes)


def test_it_ends_at_once_while_front_ends_are_imported() -> None:
    with AsrService(**MANY, FAULT="load", wait=False) as service:
        service.wait_line("engine 1 .*makes the model")
        service.signal(signal.SIGINT)
        assert service.wait() == 0
        assert bad_news(service) == []


def test_a_process_that_dies_while_models_are_made_ends_the_service() -> None:
    with AsrService(**MANY, FAULT="load", wait=False) as service:
        service.wait_line("listens on", count=3)
        os.kill(children_by_name(service.pid)["asr-engine-1"], signal.SIGKILL)
        assert service.wait() == 1
        assert [line.split(": ", 1)[1] for line in bad_news(service)] == [
            "engine 1 (cpu, null) has ended by signal 9 (SIGKILL)",
            "engine 1 (cpu, null) is not started again: it has ended too often",
        ]

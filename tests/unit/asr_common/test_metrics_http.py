"""The port for those who watch, on addresses of either kind."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from asr_common.metric_pages import ServicePages, page_of, registry_of, render
from asr_service.app.board import EngineRecord
from asr_service.core.addresses import metrics_port_taken
from asr_service.core.model import Readings
from asr_service.observability.engine_metrics import SLOT_STATES, EngineMetrics
from asr_service.observability.metrics import GAUGES, Metrics
from asr_service.observability.metrics_http import MetricsServer, open_port
from tests.support.process import PATIENCE_S


def ipv6() -> bool:
    """Whether this machine has it."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        pytest.param("::1", marks=pytest.mark.skipif(not ipv6(), reason="no IPv6 on this machine")),
    ],
)
def test_it_answers_on(host: str) -> None:
    up = True
    server = MetricsServer(open_port(host, 0), render=lambda: b"a_metric 1\n", serving=lambda: up)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE_S) as page:
        assert page.read() == b"a_metric 1\n"
    with urllib.request.urlopen(f"{url}/healthz", timeout=PATIENCE_S) as page:
        assert page.status == 200
    up = False
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/healthz", timeout=PATIENCE_S)
    with refused.value as answer:
        assert answer.code == 503
    server.shutdown()
    server.server_close()


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(OSError) as refused:
        open_port("192.0.2.1", 9464)
    error = metrics_port_taken("192.0.2.1", 9464, refused.value)
    assert "ASR_METRICS_PORT=9464: cannot listen on 192.0.2.1:9464" in error.message


def test_pages_of_engines_and_front_ends_are_one() -> None:
    """Counters are summed; of loads the largest counts."""
    front_ends = [Metrics() for _ in range(2)]
    engines: list[EngineMetrics] = []
    for number in range(2):
        front_ends[number].stream_opened()
        record = EngineRecord(load=0.25 * (1 + number), limit=10, slots=20, leased=3, running=1, ready=2)
        engines.append(EngineMetrics(record, Readings))
        engines[-1].step(seconds=0.004, audio_s=0.32, waits_s=np.array([0.0, 0.0012]))
    pages = ServicePages(GAUGES)
    for number, one in enumerate([one.registry for one in front_ends] + [one.registry for one in engines]):
        pages.take(number, page_of(one))
    registry = registry_of(pages.merged)
    value = registry.get_sample_value
    assert value("asr_streams_opened_total") == 2
    assert (value("asr_load"), value("asr_streams_limit")) == (0.5, 20)
    assert [value("asr_slots", {"state": state}) for state in SLOT_STATES] == [6, 34, 4, 2, 4]
    assert value("asr_audio_seconds_total") == pytest.approx(0.64)
    assert value("asr_queue_wait_seconds_count") == value("asr_chunk_to_result_seconds_count") == 4
    assert value("asr_queue_wait_seconds_bucket", {"le": "0.001"}) == 2
    assert value("asr_queue_wait_seconds_bucket", {"le": "0.0025"}) == 4
    assert value("asr_chunk_to_result_seconds_bucket", {"le": "0.005"}) == 2
    assert value("asr_queue_wait_seconds_sum") == pytest.approx(0.0024)
    pages.ended(0)
    assert value("asr_streams_opened_total") == 2, "what has ended has counted"
    assert b"asr_steps_total" in render(pages.merged())

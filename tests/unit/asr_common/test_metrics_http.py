"""The port for those who watch, on addresses of either kind."""

from __future__ import annotations

import itertools
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from asr_common.metrics_http import MetricsServer, open_port
from asr_common.watchdog import Watchdog
from asr_service.core.addresses import metrics_port_taken
from tests.support.process import PATIENCE_S


def ipv6() -> bool:
    """Whether this machine has it."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@contextmanager
def serving(
    host: str = "127.0.0.1",
    *,
    beat: Callable[[], float] | None = None,
    watchdog: Watchdog | None = None,
    serves: Callable[[], bool] | None = None,
) -> Iterator[str]:
    """A server in a thread; its URL. Without `beat`, a sign of life comes whenever it is asked for."""
    server = MetricsServer(
        open_port(host, 0),
        render=lambda: b"a_metric 1\n",
        beat=beat or itertools.count(1.0).__next__,
        watchdog=watchdog or Watchdog(30.0),
        serving=serves,
    )
    threading.Thread(target=server.serve, daemon=True).start()
    port = server.server_address[1]
    yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    server.shutdown()
    server.server_close()


def get(url: str) -> tuple[int, bytes]:
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as page:
            return page.status, page.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


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
    with serving(host, serves=lambda: up) as url:
        assert get(f"{url}/metrics") == (200, b"a_metric 1\n")
        assert get(f"{url}/healthz") == (200, b"serving\n")
        up = False
        assert get(f"{url}/healthz") == (503, b"not serving\n")
        assert get(f"{url}/livez?verbose") == (200, b"live\n")
        assert get(f"{url}/") == (404, b"there are /metrics, /livez and /healthz\n")


def test_of_a_program_whose_health_is_told_elsewhere() -> None:
    with serving() as url:
        assert get(f"{url}/healthz") == (404, b"there are /metrics and /livez\n")


def test_it_is_not_live_without_a_sign_of_life_and_is_again_with_one() -> None:
    signs = threading.Event()
    numbers = itertools.count(1.0)
    with serving(beat=lambda: next(numbers) if signs.is_set() else 0.0, watchdog=Watchdog(0.2)) as url:
        while get(f"{url}/livez")[0] == 200:
            pass
        assert get(f"{url}/livez") == (503, b"no sign of life for 0.2 s\n")
        signs.set()
        while get(f"{url}/livez")[0] == 503:
            pass
        assert get(f"{url}/livez") == (200, b"live\n")


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(OSError) as refused:
        open_port("192.0.2.1", 9464)
    error = metrics_port_taken("192.0.2.1", 9464, refused.value)
    assert "ASR_METRICS_PORT=9464: cannot listen on 192.0.2.1:9464" in error.message

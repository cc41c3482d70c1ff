"""The port for those who watch, on addresses of either kind."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from asr_service.core.errors import SettingsError
from asr_service.observability import metrics_http as scrape
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
    port = scrape.listen(host, 0, render=lambda: b"a_metric 1\n", serving=lambda: up)
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


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1:"):
        scrape.listen("192.0.2.1", 0, render=bytes, serving=bool)

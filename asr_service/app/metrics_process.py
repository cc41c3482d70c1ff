"""The process that answers the metrics port: it has the supervisor collect the page of the whole service."""

from __future__ import annotations

import queue
import select
import socket
import threading
from collections.abc import Callable
from itertools import count

from asr_common.control_channel import ControlChannel
from asr_common.metric_pages import Page, render
from asr_service.app.control import FromMetrics, ToMetrics
from asr_service.observability.metrics_http import MetricsServer


def answer_scrapes(control: ControlChannel, *, port: socket.socket, is_serving: Callable[[], bool]) -> int:
    """Answers requests until the supervisor is gone; returns the exit code.

    Args:
        control: to the supervisor.
        port: where requests come.
        is_serving: whether the service serves.
    """
    pages: queue.Queue[Page] = queue.Queue()
    one_at_a_time = threading.Lock()
    numbers = count(1)

    def get_page() -> bytes:
        with one_at_a_time:
            control.send((FromMetrics.SCRAPE, next(numbers)))
            return render(pages.get())

    server = MetricsServer(port, render=get_page, serving=is_serving)
    threading.Thread(target=server.serve_forever, name="scrape", daemon=True).start()
    while control.is_open:
        select.select([control], [], [])
        for message, _ in control.read():
            if message[0] == ToMetrics.PAGE:
                pages.put(message[1])
    return 0

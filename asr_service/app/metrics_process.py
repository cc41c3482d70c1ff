"""The process that answers the metrics port: it has the supervisor collect the page of the whole service."""

from __future__ import annotations

import select
import socket
import threading

from asr_common.control_channel import ControlChannel
from asr_common.metric_pages import MetricSamples, render
from asr_common.metrics_http import MetricsServer
from asr_common.page_requests import PageRequests
from asr_common.watchdog import Watchdog
from asr_service.app.board import Board
from asr_service.app.control import FromMetrics, ToMetrics

SHARE = "asr_streams_share"


def answer_scrapes(control: ControlChannel, *, port: socket.socket, board: Board, watchdog_s: float) -> int:
    """Answers requests until the supervisor is gone; returns the exit code.

    Args:
        control: to the supervisor.
        port: where requests come.
        board: says whether the service serves, and has the signs of life of the supervisor.
        watchdog_s: how long the supervisor may give none.
    """
    requests = PageRequests(lambda number: control.send((FromMetrics.SCRAPE, number)))
    server = MetricsServer(
        port,
        render=lambda: render([*requests.get(), _share(board)]),
        beat=lambda: board.service.beat,
        watchdog=Watchdog(watchdog_s),
        serving=lambda: board.is_serving,
    )
    threading.Thread(target=server.serve, name="scrape", daemon=True).start()
    while control.is_open:
        select.select([control], [], [])
        for message, _ in control.read():
            if message[0] == ToMetrics.PAGE:
                requests.take(*message[1:])
    return 0


def _share(board: Board) -> MetricSamples:
    """Says how full the service is: what autoscalers go by that take one number of each pod."""
    open_now, limit = board.streams, board.stream_limit
    # Streams whose engine is gone leave no room for others.
    share = min(1.0, open_now / limit) if limit else float(open_now > 0)
    text = "Streams that are open, over those that may be: 0 while there is nothing to serve yet, 1 if it is full."
    return (SHARE, text, "gauge", [(SHARE, (), share)])

"""A page of metrics that another process collects: for several threads, from one that is late or says nothing."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from asr_common import page_requests
from asr_common.metric_pages import Page
from asr_common.page_requests import PageRequests


def page(name: object) -> Page:
    return [(str(name), "", "gauge", [])]


def test_each_thread_gets_the_page_that_it_asked_for() -> None:
    asked: queue.Queue[int] = queue.Queue()
    requests = PageRequests(asked.put)

    def answer() -> None:
        for _ in range(8):
            number = asked.get()
            assert asked.empty(), "one at a time"
            requests.take(number, page(number))

    with ThreadPoolExecutor(9) as threads:
        answering = threads.submit(answer)
        pages = list(threads.map(lambda _: requests.get(), range(8)))
        answering.result()
    assert sorted(pages) == [page(number) for number in range(1, 9)]


def test_a_late_page_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    answers_at_once = threading.Event()
    asked: list[int] = []

    def ask(number: int) -> None:
        asked.append(number)
        if answers_at_once.is_set():
            requests.take(number, page("in time"))

    requests = PageRequests(ask)
    with monkeypatch.context() as patch:
        patch.setattr(page_requests, "PATIENCE_S", 0.01)
        with pytest.raises(TimeoutError):
            requests.get()
    requests.take(asked[0], page("late"))
    answers_at_once.set()
    assert requests.get() == page("in time")


def test_one_that_says_nothing_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_requests, "PATIENCE_S", 0.05)
    requests = PageRequests(lambda _: None)

    def times_out(_: int) -> bool:
        with pytest.raises(TimeoutError):
            requests.get()
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(times_out, range(8)))

"""Has another process collect the page of metrics, for threads that each answer a request for it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from itertools import count

from asr_common.metric_pages import Page

PATIENCE_S = 5.0
"""How long a page is waited for: less than a scrape's usual ten seconds, so that who asks is told why there is none."""


class PageRequests:
    """Asks for one page at a time.

    Args:
        ask: asks the other process for the page of that number; called by one thread at a time.
    """

    def __init__(self, ask: Callable[[int], None]) -> None:
        self._ask = ask
        self._one_at_a_time = threading.Lock()
        self._numbers = count(1)
        self._answers: queue.Queue[tuple[int, Page]] = queue.Queue()

    def get(self) -> Page:
        """Returns a page that was asked for now. For any thread.

        Raises:
            TimeoutError: it did not come, or others were waited for.
        """
        until = time.monotonic() + PATIENCE_S
        if not self._one_at_a_time.acquire(timeout=PATIENCE_S):
            raise TimeoutError
        try:
            number = next(self._numbers)
            self._ask(number)
            while True:
                answered, page = self._answers.get(timeout=max(0.0, until - time.monotonic()))
                # Others are late answers to those that have given up.
                if answered == number:
                    return page
        except queue.Empty:
            raise TimeoutError from None
        finally:
            self._one_at_a_time.release()

    def take(self, number: int, page: Page) -> None:
        """Takes the page of that number, which has come."""
        self._answers.put((number, page))

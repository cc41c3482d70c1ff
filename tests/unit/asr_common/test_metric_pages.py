"""The page of several processes is that of one process which did the work of all."""

from __future__ import annotations

import marshal

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from asr_common.metric_pages import ServicePages, page_of, render


class Process:
    """A registry with a metric of each kind."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls.", ["outcome"], registry=self.registry)
        self.seconds = Histogram("seconds", "Durations.", buckets=(0.1, 1.0), registry=self.registry)
        self.streams = Gauge("streams", "Streams.", registry=self.registry)
        self.load = Gauge("load", "Load.", registry=self.registry)

    def work(self, outcome: str, seconds: float) -> None:
        self.calls.labels(outcome).inc()
        self.seconds.observe(seconds)


def lines(page: bytes) -> list[str]:
    """The values of a page, but for the times at which counting began."""
    return sorted(line for line in page.decode().splitlines() if "_created" not in line)


WORK = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["ok", "failed"]), st.sampled_from([0.0625, 0.5, 2.0]), st.booleans()),
    max_size=40,
)  # fmt: skip


@given(WORK)
def test_what_processes_count_adds_up_though_they_end_and_are_started_again(
    work: list[tuple[int, str, float, bool]],
) -> None:
    pages, whole, processes = ServicePages({"load": max}), Process(), [Process() for _ in range(3)]
    for number, outcome, seconds, ends in work:
        for process in (processes[number], whole):
            process.work(outcome, seconds)
        if ends:
            # Pages travel between processes.
            pages.take(number, marshal.loads(marshal.dumps(page_of(processes[number].registry))))
            pages.ended(number)
            processes[number] = Process()
    for number, process in enumerate(processes):
        process.streams.set(number + 1)
        process.load.set(0.5 * number)
        pages.take(number, page_of(process.registry))
    whole.streams.set(6)
    whole.load.set(1.0)
    assert lines(render(pages.merged())) == lines(render(page_of(whole.registry)))


def test_a_page_is_as_prometheus_would_have_it() -> None:
    process = Process()
    process.work("ok", 0.5)
    assert render(page_of(process.registry)) == generate_latest(process.registry)


def test_gauges_of_a_process_that_ended_are_gone() -> None:
    pages, process = ServicePages({}), Process()
    process.streams.set(7)
    process.work("ok", 0.5)
    pages.take("one", page_of(process.registry))
    pages.ended("one")
    pages.ended("one")
    names = {name for name, *_ in pages.merged()}
    assert names == {"calls", "seconds"}

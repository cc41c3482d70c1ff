"""Makes one page of metrics of those of several processes that together are one service.

Each process has its own registry and gives its samples away as plain values; one process adds them up. What a process
has counted stays counted when it ends: no counter of the service ever falls because a part of it was started again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Labels = tuple[tuple[str, str], ...]
MetricSamples = tuple[str, str, str, list[tuple[str, Labels, float]]]
"""A metric: name, help, type, and its samples, each with name, labels and value."""
Page = list[MetricSamples]

_COUNTED = ("counter", "histogram", "summary")


def page_of(registry: CollectorRegistry) -> Page:
    """Takes the samples of a registry as plain values."""
    return [
        (
            metric.name,
            metric.documentation,
            metric.type,
            [(sample.name, tuple(sorted(sample.labels.items())), sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


class ServicePages:
    """The pages of a service's processes, by any name, and what those had counted that have ended.

    Args:
        combine: for gauges of which the service's value is not the sum of its processes': what makes one value of two,
            such as `max`, by the metric's name.
    """

    def __init__(self, combine: Mapping[str, Callable[[float, float], float]]) -> None:
        self._combine = dict(combine)
        self._pages: dict[Any, Page] = {}
        self._ended: Page = []

    def take(self, process: Any, page: Page) -> None:
        """Takes the newest page of a process."""
        self._pages[process] = page

    def ended(self, process: Any) -> None:
        """Takes that a process has ended: of its last page, what it had counted stays."""
        counted = [metric for metric in self._pages.pop(process, []) if metric[2] in _COUNTED]
        self._ended = self._merge([self._ended, counted])

    def merged(self) -> Page:
        """Returns the page of the service."""
        return self._merge([*self._pages.values(), self._ended])

    def _merge(self, pages: Iterable[Page]) -> Page:
        merged: dict[str, tuple[str, str, dict[tuple[str, Labels], float]]] = {}
        for page in pages:
            for name, text, kind, samples in page:
                values = merged.setdefault(name, (text, kind, {}))[2]
                combine = self._combine.get(name, _add)
                for sample, labels, value in samples:
                    # When counting began: the earliest of all.
                    one = min if sample.endswith("_created") else combine
                    key = (sample, labels)
                    values[key] = one(values[key], value) if key in values else value
        return [
            (name, text, kind, [(*key, value) for key, value in values.items()])
            for name, (text, kind, values) in merged.items()
        ]


class Scrape:
    """Waits for the newest page of each of several processes, up to a moment; then their last ones have to do.

    Args:
        number: of the scrape, which answers carry.
        processes: that are asked, by any name.
        until: monotonic time.
    """

    def __init__(self, number: int, processes: Iterable[Any], until: float) -> None:
        self.number = number
        self.until = until
        self._missing = set(processes)

    def take(self, process: Any, number: int) -> None:
        """Takes that a process has answered a scrape of this number, which may be an earlier one."""
        if number == self.number:
            self._missing.discard(process)

    def leave_out(self, process: Any) -> None:
        """Takes that a process has ended."""
        self._missing.discard(process)

    def is_over(self, now: float) -> bool:
        """Returns whether there is nothing more to wait for."""
        return not self._missing or now >= self.until


def render(page: Page) -> bytes:
    """Returns a page in Prometheus' text format."""
    return generate_latest(registry_of(lambda: page))


def registry_of(get_page: Callable[[], Page]) -> CollectorRegistry:
    """Makes a registry whose metrics are those of a page, which is asked for at each scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_PageCollector(get_page))
    return registry


class _PageCollector(Collector):
    def __init__(self, get_page: Callable[[], Page]) -> None:
        self._get_page = get_page

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, text, kind, samples in self._get_page():
            metric = Metric(name, text, kind)
            for sample, labels, value in samples:
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _add(one: float, other: float) -> float:
    return one + other

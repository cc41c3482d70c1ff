"""Metrics of several engines and front ends as one page."""

from __future__ import annotations

import numpy as np
import pytest

from asr_common.metric_pages import ServicePages, page_of, registry_of, render
from asr_service.app.board import EngineRecord
from asr_service.core.model import Readings, StepKind
from asr_service.observability.engine_metrics import SLOT_STATES, EngineMetrics
from asr_service.observability.metrics import GAUGES, Metrics


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


@pytest.mark.parametrize(
    ("recorded", "kind", "told"),
    [(None, StepKind.HOST, None), ((), StepKind.EAGER, 0.0), ((1, 2, 128), StepKind.RECORDED, 3.0)],
)
def test_whether_steps_are_recorded_is_told(
    recorded: tuple[int, ...] | None, kind: StepKind, told: float | None
) -> None:
    readings = Readings(recorded=recorded)
    metrics = EngineMetrics(EngineRecord(), lambda: readings)
    assert metrics.registry.get_sample_value("asr_recorded_batch_sizes") == told
    assert readings.step_kind is kind

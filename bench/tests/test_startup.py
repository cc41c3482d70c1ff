"""The parts of a start, out of a log."""

from __future__ import annotations

from datetime import datetime

from bench.startup import parts_of

BEGAN = datetime.fromisoformat("2026-01-31T12:00:00.000+00:00").timestamp()
LOG = """\
2026-01-31T12:00:01.000+00:00 INFO    asr_service.app.front_end: front end 0 listens on 127.0.0.1:50051
2026-01-31T12:00:03.500+00:00 INFO    asr_service.model.reading: reading /models/demo.nemo
2026-01-31T12:00:04.000+00:00 INFO    asr_service.model.loading: compiling the encoder step for this processor
2026-01-31T12:00:10.500+00:00 INFO    asr_service.model.loading: compiled in 6.5 s
2026-01-31T12:00:11.000+00:00 INFO    asr_service.engine.engine: batch of 1
2026-01-31T12:00:11.200+00:00 INFO    asr_service.engine.engine: batch of 8
2026-01-31T12:00:11.500+00:00 INFO    asr_service.app.service: serving grpc on 127.0.0.1:50051"""


def test_each_part_lasts_until_its_line() -> None:
    parts = parts_of(LOG.splitlines(), BEGAN)
    assert parts == {"listens": 1.0, "reading": 2.5, "made": 7.5, "warm": 0.5, "compiling": 6.5}


def test_an_engine_that_is_ahead_of_the_front_end_takes_no_time_of_its_own() -> None:
    first, second, *rest = LOG.splitlines()
    early = second.replace("12:00:03.500", "12:00:00.900")
    parts = parts_of([early, first, *rest], BEGAN)
    assert (parts["listens"], parts["reading"], parts["made"]) == (1.0, 0.0, 10.0)

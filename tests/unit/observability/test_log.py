"""Libraries kept quiet."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator

import pytest

from asr_service.observability import log


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    """Leaves the root logger and the warning filters as they were."""
    root, own = logging.getLogger(), logging.getLogger("asr_service")
    handlers, levels = root.handlers[:], (root.level, own.level)
    with warnings.catch_warnings():
        yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def test_third_parties_are_quiet_even_if_they_set_their_level_later() -> None:
    out = io.StringIO()
    log.set_up("info", "text", out)
    nemo = logging.getLogger("nemo_logger")
    nemo.setLevel(logging.DEBUG)
    nemo.warning("a notice")
    logging.getLogger("nv_one_logger.api").error("telemetry")
    with warnings.catch_warnings(record=True) as seen:
        log.quiet_third_party()
        warnings.warn("soon to be removed", FutureWarning, stacklevel=1)
        warnings.warn_explicit("soon to be removed", FutureWarning, "tasks.py", 1, module="nemo.core")
        assert not seen
        warnings.warn_explicit(
            "never awaited", RuntimeWarning, "call.py", 1, module="asr_service.api.stream_call"
        )
        assert [str(warning.message) for warning in seen] == ["never awaited"]
    nemo.error("a real error")
    assert "a notice" not in out.getvalue()
    assert "telemetry" not in out.getvalue()
    assert "a real error" in out.getvalue()

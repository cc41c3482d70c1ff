"""What the chart makes, rendered once."""

from __future__ import annotations

import pytest

from tests.chart.environment import is_built
from tests.chart.matrix import FURTHER, pairs
from tests.chart.releases import Release, render


@pytest.fixture(scope="session")
def releases() -> dict[str, Release]:
    """By name, releases in which any two choices meet, and those that are further ones."""
    if not is_built():
        pytest.skip("Helm's engine and Kubernetes' schemas are not here: make chart fetches them")
    found = render(pairs() | FURTHER)
    refused = {name: release for name, release in found.items() if isinstance(release, str)}
    assert not refused
    return {name: release for name, release in found.items() if isinstance(release, Release)}

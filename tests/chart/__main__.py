"""Renders every combination of what the chart's values may be, and holds each to Kubernetes' schemas.

    python -m tests.chart

The tests beside it take combinations in which any two choices meet; this takes minutes.
"""

from __future__ import annotations

import sys
import time
from itertools import islice

from tests.chart.checks import wrong
from tests.chart.environment import KUBERNETES, NotBuilt, build
from tests.chart.matrix import FURTHER, combinations
from tests.chart.releases import Schemas, render

_AT_A_TIME = 50


def main() -> int:
    """Prints what is wrong; 1 if anything is."""
    try:
        build()
    except NotBuilt as why:
        print(f"build/chart could not be made: {why}")
        return 1
    started = time.monotonic()
    cases = combinations() | FURTHER
    schemas = Schemas()
    documents = bad = 0
    left = iter(cases)
    # Few enough for one answer to be short.
    while names := list(islice(left, _AT_A_TIME)):
        for name, release in render({name: cases[name] for name in names}).items():
            found = [release] if isinstance(release, str) else wrong(release, schemas)
            documents += 0 if isinstance(release, str) else len(release.documents)
            bad += bool(found)
            for line in found:
                print(f"{name}: {line}")
    print(
        f"{len(cases)} releases, {documents} manifests ({schemas.different} different ones) held to Kubernetes "
        f"{KUBERNETES}: {bad} releases with something wrong, in {time.monotonic() - started:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

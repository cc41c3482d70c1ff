"""Renders a chart with Helm's own engine; run by the interpreter of build/chart, which has it.

It reads an object from stdin: `chart`, the chart's folder, `kubernetes`, a version, `release` and `namespace`, names,
and `cases`, values by any name. It prints one of these names: with `manifests` by template, or `refused`, why not; and
`lint`, what `helm lint --strict` finds.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python as helm


def main() -> None:
    """Renders all cases."""
    asked = json.load(sys.stdin)
    told: dict[str, dict[str, Any]] = {}
    with helm.Chart.load(asked["chart"]) as chart:
        for name, values in asked["cases"].items():
            try:
                chart.validate_schema(values)
                manifests = chart.render(values, name=asked["release"], namespace=asked["namespace"])
            except helm.HelmError as error:
                told[name] = {"refused": str(error)}
                continue
            found = helm.lint(
                asked["chart"],
                values,
                strict=True,
                namespace=asked["namespace"],
                kube_version=f"v{asked['kubernetes']}",
            )
            told[name] = {"manifests": manifests, "lint": [*found["messages"], *found["errors"]]}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()

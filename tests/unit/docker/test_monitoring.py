"""What the dashboard and the alerts ask for is what the service and the bridge tell."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client import generate_latest

from asr_service.app.board import EngineRecord
from asr_service.core.model import Readings
from asr_service.observability.engine_metrics import EngineMetrics
from asr_service.observability.metrics import Metrics
from tests.support.process import ROOT
from ws_bridge.metrics import Metrics as BridgeMetrics

FOLDER = ROOT / "docker" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana" / "asr.json").read_text())
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]


def expressions() -> list[str]:
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return found + [rule["expr"] for rule in RULES]


def exported() -> set[str]:
    """Names of all series of a service that has done a little of everything."""
    metrics = Metrics()
    engine = EngineMetrics(EngineRecord(), lambda: Readings((("encoder", 1.0),), 10, 20))
    engine.step(seconds=0.1, audio_s=0.1, waits_s=np.zeros(1))
    engine.step_failed(1)
    metrics.refused("AT_CAPACITY")
    metrics.call_ended("internal", admitted=True)
    bridge = BridgeMetrics()
    bridge.watch(states=Counter, ready=lambda: 1)
    bridge.refused("too_many")
    bridge.closed(1000, 0)
    registries = (metrics.registry, engine.registry, bridge.registry)
    pages = b"".join(map(generate_latest, registries))
    return set(re.findall(r"^([a-z_]+)", pages.decode(), re.MULTILINE))


def test_everything_that_is_asked_for_is_exported() -> None:
    asked = {name for text in expressions() for name in re.findall(r"\b(?:asr|process)_[a-z_]+", text)}
    assert len(asked) > 20
    assert asked <= exported()


def test_everything_that_is_exported_is_shown() -> None:
    shown = " ".join(expressions())
    for name in exported():
        family = re.sub(r"_(bucket|sum|count|created|total)$", "", name)
        standard = name.startswith("asr_engine_process_")  # as every Prometheus client has them
        if name.startswith("asr_") and not name.endswith("_created") and not standard:
            assert family in shown or family == "asr_streams_opened", name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["summary"] and rule["annotations"]["action"]
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


def test_the_composition_mounts_what_there_is() -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["monitoring"]
        for volume in services[name]["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / "docker" / source).is_file(), source
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    assert targets == {
        "asr": [f"service:{services['service']['environment']['ASR_METRICS_PORT']}"],
        "asr-bridge": [f"bridge:{services['bridge']['environment']['ASR_BRIDGE_METRICS_PORT']}"],
    }

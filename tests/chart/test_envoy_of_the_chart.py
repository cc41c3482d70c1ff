"""The chart's Envoy: its configuration is that of docker/proxy, with other names, and Envoy itself takes it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.chart.releases import NAMESPACE, Release
from tests.support import certificates, envoy
from tests.support.process import PATIENCE_S


def configured(release: Release) -> Any:
    """Envoy's configuration."""
    return yaml.safe_load(release.of("ConfigMap")["proxy"]["data"]["envoy.yaml"])


def by_name(items: list[Any]) -> dict[str, Any]:
    return {item["name"]: item for item in items}


def documented() -> Any:
    """The configuration of docker/proxy, with anchors in place of which stands what they mean."""
    return yaml.safe_load(envoy.CONFIGURATION.read_text(encoding="utf-8"))


def endpoints(host: str, port: int) -> list[Any]:
    address = {"socket_address": {"address": host, "port_value": port}}
    return [{"lb_endpoints": [{"endpoint": {"address": address}}]}]


def test_it_is_the_documented_one_with_other_names(releases: dict[str, Release]) -> None:
    release = releases["KEDA with a key"]
    expected = documented()
    resources = expected["static_resources"]
    listeners, clusters = by_name(resources["listeners"]), by_name(resources["clusters"])
    for name, part, port in (("services", "service", 50051), ("bridges", "bridge", 8080)):
        clusters[name]["load_assignment"]["endpoints"] = endpoints(
            f"demo-asr-{part}-pods.{NAMESPACE}.svc", port
        )
    found = configured(release)
    more = (
        by_name(found["static_resources"].pop("listeners")),
        by_name(found["static_resources"].pop("clusters")),
    )
    assert more[0].pop("probes")
    assert more[1].pop("admin")
    assert more == ({name: listeners[name] for name in ("grpc", "websocket")}, clusters)
    del resources["listeners"], resources["clusters"]
    assert found == expected


def test_time_outs_follow_the_programs_settings(releases: dict[str, Release]) -> None:
    listeners = by_name(configured(releases["settings"])["static_resources"]["listeners"])

    def http(name: str) -> Any:
        return listeners[name]["filter_chains"][0]["filters"][0]["typed_config"]

    assert http("grpc")["stream_idle_timeout"] == f"{86400 + 30}s"
    routes = http("websocket")["route_config"]["virtual_hosts"][0]["routes"]
    assert [route["route"]["idle_timeout"] for route in routes] == ["3600s", f"{3 * 40 + 15}s"]


def test_with_certificates(releases: dict[str, Release]) -> None:
    """Clients have one port, which speaks TLS, and instances are known by their Services' names."""
    release = releases["another Secret for everything"]
    found = configured(release)["static_resources"]
    assert set(by_name(found["listeners"])) == {"grpc", "tls", "probes"}
    front = release.of("Service")[""]
    assert [(port["port"], port["targetPort"]) for port in front["spec"]["ports"]] == [(443, "tls")]
    for name, part in (("services", "service"), ("bridges", "bridge")):
        tls = by_name(found["clusters"])[name]["transport_socket"]["typed_config"]
        assert tls["sni"] == f"demo-asr-{part}.{NAMESPACE}.svc"
        trust = tls["common_tls_context"]["combined_validation_context"]
        assert trust["default_validation_context"] == {
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": tls["sni"]}}]
        }
        secret = trust["validation_context_sds_secret_config"]
        source = secret["sds_config"]["path_config_source"]
        assert source["watched_directory"] == {"path": "/etc/envoy"}
        file = source["path"].removeprefix("/etc/envoy/")
        (described,) = yaml.safe_load(release.of("ConfigMap")["proxy"]["data"][file])["resources"]
        assert described["name"] == secret["name"]
        authority = described["validation_context"]
        folder = authority["watched_directory"]["path"]
        assert authority["trusted_ca"]["filename"] == f"{folder}/ca.crt"
        assert folder in {mount["mountPath"] for mount in release.container("proxy")["volumeMounts"]}


def test_without_a_bridge_nothing_is_said_of_one(releases: dict[str, Release]) -> None:
    alone = [
        release
        for release in releases.values()
        if "proxy" in release.of("Deployment") and "bridge" not in release.of("Service")
    ]
    assert alone
    for release in alone:
        assert "bridges" not in release.of("ConfigMap")["proxy"]["data"]["envoy.yaml"]


def test_envoy_takes_every_one_of_them(releases: dict[str, Release], tmp_path: Path) -> None:
    program = envoy.needs_envoy()
    # What is mounted there.
    authority = certificates.Authority(tmp_path)
    cert, key = authority.issue("front")
    for place, source in (
        ("tls/tls.crt", cert),
        ("tls/tls.key", key),
        ("service-ca/ca.crt", authority.cert),
        ("bridge-ca/ca.crt", authority.cert),
    ):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copy(source, tmp_path / place)
    seen = set()
    for release in releases.values():
        for config_map in release.of("ConfigMap").values():
            text = config_map["data"]["envoy.yaml"]
            if text in seen:
                continue
            seen.add(text)
            for file, content in config_map["data"].items():
                (tmp_path / file).write_text(content.replace("/etc/envoy", str(tmp_path)), encoding="utf-8")
            done = subprocess.run(
                [program, "--mode", "validate", "-c", tmp_path / "envoy.yaml"],
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr
    assert len(seen) > 3

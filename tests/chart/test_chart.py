"""The Helm chart: what it makes of values is what Kubernetes takes, and what the programs and their promises need."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from asr_common.settings import read_settings
from asr_service import __version__
from asr_service.app.board import EngineRecord
from asr_service.app.metrics_process import SHARE
from asr_service.config import Settings
from asr_service.core.model import Readings
from asr_service.observability.engine_metrics import EngineMetrics
from asr_service.observability.metrics import Metrics
from tests.chart.checks import wrong
from tests.chart.environment import is_built
from tests.chart.matrix import FURTHER, Values, combinations
from tests.chart.releases import CHART, NAMESPACE, Release, Schemas, render
from tests.support.process import ROOT
from ws_bridge.config import Settings as BridgeSettings


def test_nothing_is_wrong_with_any_release(releases: dict[str, Release]) -> None:
    schemas = Schemas()
    found = {name: errors for name, release in releases.items() if (errors := wrong(release, schemas))}
    assert not found


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", "spec.template.spec.containers.0.livenessprobe"),
        ("HorizontalPodAutoscaler", "spec.metrics.0.pod"),
        ("ScaledObject", "spec.triggers.0.querry"),
        ("ServiceMonitor", "spec.endpoints.0.ports"),
        ("PrometheusRule", "spec.groups.0.rules.0.exprs"),
        ("GRPCRoute", "spec.rules.0.backendRefs.0.ports"),
        ("HTTPRoute", "spec.rules.0.timeouts.requests"),
    ],
)
def test_a_field_that_there_is_not_is_found(releases: dict[str, Release], kind: str, path: str) -> None:
    """The schemas do look: at Kubernetes' kinds and at others'."""
    document = next(one for release in releases.values() for one in release.documents if one["kind"] == kind)
    spoilt: Any = json.loads(json.dumps(document))
    inner = spoilt
    *parents, field = path.split(".")
    for name in parents:
        inner = inner[int(name)] if name.isdigit() else inner[name]
    inner[field] = "1"
    assert list(Schemas().errors(document)) == []
    assert any(field in error for error in Schemas().errors(spoilt))


def test_the_programs_take_their_settings(releases: dict[str, Release]) -> None:
    """As they would read them, with nothing misspelt: every variable is one of theirs."""
    for name, release in releases.items():
        containers = [one for part in release.of("Deployment") for one in release.pod(part)["containers"]]
        for container in containers:
            if container["name"] not in ("service", "bridge"):
                continue
            kind = Settings if container["name"] == "service" else BridgeSettings
            told = {one["name"]: one["value"] for one in container["env"] if one["name"].startswith("ASR_")}
            fields = {variable.removeprefix("ASR_").lower(): value for variable, value in told.items()}
            assert fields.keys() <= kind.model_fields.keys(), name
            read_settings(kind, fields)


def test_the_default_release(releases: dict[str, Release]) -> None:
    (release,) = (one for name, one in releases.items() if name == "KEDA with a key")
    assert release.variables("service")["ASR_DEVICE"] == "cuda:0"
    assert release.container("service")["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert release.variables("bridge")["ASR_GRPC_TARGET"] == f"demo-asr-proxy.{NAMESPACE}.svc:50051"
    probe = release.container("service")["startupProbe"]
    assert probe["httpGet"]["path"] == "/healthz"
    assert probe["periodSeconds"] * probe["failureThreshold"] == 3600
    claim = release.of("PersistentVolumeClaim")["models"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    mounts = {mount["mountPath"]: mount["name"] for mount in release.container("service")["volumeMounts"]}
    assert mounts == {"/tmp": "tmp", "/var/lib/asr/models": "models"}


def test_what_depends_on_the_device(releases: dict[str, Release]) -> None:
    two = releases["two GPUs"]
    assert two.variables("service")["ASR_DEVICE"] == "cuda:0,cuda:1"
    assert two.container("service")["resources"]["limits"]["nvidia.com/gpu"] == 2
    for name, release in releases.items():
        if name.startswith("cpu "):
            container = release.container("service")
            assert container["resources"]["limits"]["cpu"] == "4"
            assert "nvidia.com/gpu" not in json.dumps(container["resources"])
            assert container["image"] == "asr-service:cpu"
            assert release.variables("service")["ASR_DEVICE"] == "cpu"


def test_secrets_are_mounted_as_folders_that_are_followed(releases: dict[str, Release]) -> None:
    release = releases["another Secret for everything"]
    told = release.variables("service")
    volumes = {volume["name"]: volume for volume in release.pod("service")["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in release.container("service")["volumeMounts"]}
    for variable, secret in (
        ("ASR_TLS_CERT", "asr-tls"),
        ("ASR_TLS_KEY", "asr-tls"),
        ("ASR_API_KEYS_FILE", "asr-keys"),
    ):
        mount = mounts[told[variable].rpartition("/")[0]]
        assert mount["readOnly"]
        assert "subPath" not in mount, "a mounted file is not followed"
        assert volumes[mount["name"]]["secret"] == {"secretName": secret, "defaultMode": 0o440}
    assert told["ASR_API_KEYS_FILE"].endswith("/file")
    token = next(one for one in release.container("service")["env"] if one["name"] == "HF_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}
    assert release.container("service")["image"] == f"asr-service@sha256:{'a' * 64}"


def test_who_speaks_tls_with_the_service(releases: dict[str, Release]) -> None:
    """The bridge does where it reaches the service itself; Envoy's port within the cluster has none."""
    assert "ASR_GRPC_CA" not in releases["another Secret for everything"].variables("bridge")
    assert "ASR_GRPC_CA" in releases["TLS in one pod"].variables("service", "bridge")
    mutual = releases["mutual TLS"].variables("bridge")
    assert {"ASR_GRPC_CA", "ASR_GRPC_CERT", "ASR_GRPC_KEY"} <= mutual.keys()
    assert (
        releases["TLS in one pod"].container("service", "bridge")["readinessProbe"]["httpGet"]["scheme"]
        == "HTTPS"
    )


def test_models_that_are_there_are_not_asked_for(releases: dict[str, Release]) -> None:
    for name, release in releases.items():
        told = release.variables("service")
        at_hand = " image " in name or " volume " in name or name == "a first try"
        assert (told.get("HF_HUB_OFFLINE") == "1") == at_hand, name
        # A mount would hide what the image has.
        mounts = [mount["mountPath"] for mount in release.container("service")["volumeMounts"]]
        assert ("/var/lib/asr/models" in mounts) == ("HF_HUB_OFFLINE" not in told), name


def metrics() -> set[str]:
    """The names of what the service tells."""
    engine = EngineMetrics(EngineRecord(), Readings)
    return {SHARE, *(metric.name for one in (Metrics(), engine) for metric in one.registry.collect())}


def test_autoscalers_ask_for_metrics_that_there_are(releases: dict[str, Release]) -> None:
    of = f'namespace="{NAMESPACE}",service="demo-asr-service-pods"'
    seen = set()
    for name, release in releases.items():
        by_load = name in ("scaled by load too", "KEDA with a key")
        wanted = {"asr_streams_share", "asr_load"} if by_load else {"asr_streams_share"}
        assert wanted <= metrics()
        for scaled in release.of("ScaledObject").values():
            triggers = [one["metadata"] for one in scaled["spec"]["triggers"]]
            assert {one["query"]: one["threshold"] for one in triggers} == {
                f"sum({metric}{{{of}}})": {"asr_streams_share": "0.75", "asr_load": "0.7"}[metric]
                for metric in wanted
            }
            seen.add("keda")
        if hpa := release.of("HorizontalPodAutoscaler").get("service"):
            pods = [one["pods"] for one in hpa["spec"]["metrics"]]
            assert {one["metric"]["name"]: one["target"]["averageValue"] for one in pods} == {
                metric: {"asr_streams_share": "750m", "asr_load": "600m"}[metric] for metric in wanted
            }
            seen.add("hpa")
    assert seen == {"keda", "hpa"}


def test_alerts_and_dashboard_hold_here_too(releases: dict[str, Release]) -> None:
    """They are those of docker/monitoring, and jobs are called as they have it."""
    documented = yaml.safe_load((ROOT / "docker/monitoring/alerts.yml").read_text(encoding="utf-8"))
    named = {
        job for rule in documented["groups"][0]["rules"] for job in re.findall(r'job="([^"]+)"', rule["expr"])
    }
    rules = [one for release in releases.values() for one in release.of("PrometheusRule").values()]
    assert rules
    assert all(rule["spec"] == documented for rule in rules)
    jobs = {
        relabel["replacement"]
        for release in releases.values()
        for monitor in release.of("ServiceMonitor").values()
        for endpoint in monitor["spec"]["endpoints"]
        for relabel in endpoint["relabelings"]
    }
    assert named == {"asr", "asr-bridge"} < jobs


def test_the_network_lets_in_who_has_to_come_in(releases: dict[str, Release]) -> None:
    """Clients reach what they connect to, the release's pods each other, Prometheus the metrics; nobody else."""
    for name, release in releases.items():
        policies = release.of("NetworkPolicy")
        is_closed = "furnished" in name or name == "a closed network"
        assert policies.keys() == (release.of("Deployment").keys() if is_closed else set())
        for part, policy in policies.items():
            containers = release.pod(part)["containers"]
            ports = {port["containerPort"] for one in containers for port in one["ports"]}
            rules = policy["spec"]["ingress"]
            opened = {port["port"] for rule in rules for port in rule["ports"]}
            assert opened == ports, (name, part)
            for_clients = [rule for rule in rules if "team" in json.dumps(rule.get("from"))]
            is_front = part == "proxy" or "proxy" not in release.of("Deployment")
            assert len(for_clients) == is_front
            assert all("from" in rule for rule in rules)


def test_a_closed_network_leaves_the_release_its_own_pods(releases: dict[str, Release]) -> None:
    own = {"app.kubernetes.io/name": "asr", "app.kubernetes.io/instance": "demo"}
    for policy in releases["a closed network"].of("NetworkPolicy").values():
        among, given = policy["spec"]["egress"]
        assert among == {"to": [{"podSelector": {"matchLabels": own}}]}
        assert given == {"ports": [{"port": 53, "protocol": "UDP"}]}


def test_values_that_replace_the_charts_own(releases: dict[str, Release]) -> None:
    """Helm merges maps: what goes with another choice only is left out."""
    release = releases["all at once"]
    assert release.of("Deployment")["service"]["spec"]["strategy"] == {"type": "Recreate"}
    budget = release.of("PodDisruptionBudget")["service"]["spec"]
    assert (budget["minAvailable"], budget.get("maxUnavailable")) == (1, None)
    text = release.of("ConfigMap")["proxy"]["data"]["envoy.yaml"]
    assert "stream_idle_timeout: 631s" in text
    assert "idle_timeout: 108s" in text


def test_what_it_tells_who_installs_it(releases: dict[str, Release]) -> None:
    for name, release in releases.items():
        services = {one["metadata"]["name"]: one["spec"]["ports"] for one in release.of("Service").values()}
        told = re.findall(rf"([a-z0-9-]+)\.{NAMESPACE}\.svc(?::(\d+))?", release.notes)
        assert told, name
        for host, port in told:
            assert int(port or 443) in {one["port"] for one in services[host]}, (name, host, port)
        for kind, host in re.findall(r"\b(service|deployment)/([a-z0-9-]+) ", release.notes):
            assert host in {one["metadata"]["name"] for one in release.of(kind.capitalize()).values()}
        asks = any(one["name"] == "ASR_API_KEYS_FILE" for one in release.container("service")["env"])
        assert ("No API keys are asked for" in release.notes) != asks


REFUSED: list[tuple[Values, str]] = [
    ({"devices": "cpu"}, "additional properties 'devices' not allowed"),
    ({"device": "gpu"}, "at '/device': value must be one of 'cuda', 'cpu'"),
    ({"service": {"drainSecond": 5}}, "additional properties 'drainSecond' not allowed"),
    ({"service": {"gpus": 0}}, "at '/service/gpus'"),
    ({"service": {"settings": {"MAX_STREAMS": 5}}}, "'MAX_STREAMS' does not match pattern '^ASR_"),
    (
        {"service": {"settings": {"ASR_DRAIN_S": 5}}},
        "service.settings.ASR_DRAIN_S: the chart sets this itself",
    ),
    ({"bridge": {"settings": {"ASR_PORT": 1}}}, "bridge.settings.ASR_PORT: the chart sets this itself"),
    ({"autoscaling": {"targetStreamsShare": 70}}, "at '/autoscaling/targetStreamsShare': maximum"),
    ({"autoscaling": {"min": 5, "max": 3}}, "autoscaling.min: 5 should be at most autoscaling.max, 3"),
    ({"bridge": {"autoscaling": {"min": 50}}}, "bridge.autoscaling.min: 50 should be at most"),
    ({"autoscaling": {"kind": "keda"}}, "autoscaling.keda.prometheusAddress: with autoscaling.kind keda"),
    ({"proxy": {"kind": "gateway"}}, "proxy.gateway.grpc.parentRefs: with proxy.kind gateway"),
    (
        {"proxy": {"kind": "gateway", "gateway": {"grpc": {"parentRefs": [{"name": "edge"}]}}}},
        "proxy.gateway: at one listener a Gateway takes a GRPCRoute and an HTTPRoute only for different host names",
    ),
    (
        {
            "proxy": {
                "kind": "gateway",
                "gateway": {
                    "grpc": {"parentRefs": [{"name": "edge"}], "hostnames": ["a.example", "b.example"]},
                    "websocket": {"hostnames": ["b.example"]},
                },
            }
        },
        "proxy.gateway: at one listener",
    ),
    (
        {"model": {"source": "volume", "name": "/models/a.nemo"}},
        "model.volume.source: with model.source volume",
    ),
    (
        {"model": {"source": "volume", "volume": {"source": {"nfs": {}}}}},
        "model.name: with model.source volume it should be a path in /models",
    ),
    (
        {"service": {"tls": {"clientCaSecretName": "ca"}}},
        "mutual TLS needs the service's own certificate too",
    ),
    (
        {"service": {"tls": {"secretName": "a", "clientCaSecretName": "b"}}},
        "with proxy.kind envoy the service sees the proxy's certificate for everybody",
    ),
    (
        {"service": {"tls": {"secretName": "a", "clientCaSecretName": "b"}}, "proxy": {"kind": "none"}},
        "bridge.tls.clientSecretName: with service.tls.clientCaSecretName the service asks the bridge",
    ),
    (
        {
            "service": {"tls": {"secretName": "a"}},
            "proxy": {
                "kind": "gateway",
                "gateway": {"grpc": {"parentRefs": [{"name": "edge", "sectionName": "grpc"}]}},
            },
            "bridge": {"mode": "none"},
        },
        "a Gateway speaks to its backends without TLS here",
    ),
    ({"image": {"digest": "latest"}}, "at '/image/digest'"),
    ({"apiKeys": {"secretName": "No_Name"}}, "at '/apiKeys/secretName'"),
]


def test_values_that_cannot_be_are_refused_by_name() -> None:
    if not is_built():
        pytest.skip("Helm's engine is not here: make chart fetches it")
    told = render({str(number): values for number, (values, _) in enumerate(REFUSED)})
    for number, (values, words) in enumerate(REFUSED):
        said = told[str(number)]
        assert isinstance(said, str), values
        assert words in said, said


def test_the_schema_knows_every_value_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def compare(value: Any, described: Any, where: str) -> None:
        if "properties" not in described:
            return
        assert described["additionalProperties"] is False, where
        # `requests` of `resources` and the like: known, and not all given.
        given = set(value)
        assert given <= described["properties"].keys(), where
        missing = described["properties"].keys() - given
        assert missing <= {"global", "claims", "minAvailable"}, (where, missing)
        for name, one in value.items():
            compare(one, described["properties"][name], f"{where}.{name}")

    compare(values, schema, "")


def test_thresholds_are_those_of_the_simulated_fleet() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    fleet = json.loads((ROOT / "bench/results/fleet.json").read_text(encoding="utf-8"))
    scaling, recommended = values["autoscaling"], fleet["recommended"]
    assert scaling["targetStreamsShare"] == recommended["target"]
    assert scaling["scaleDownStabilizationSeconds"] == recommended["scale_down_window_s"]
    assert recommended["scale_up_window_s"] == 0
    # The table tells the simulation's own figures.
    text = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    shown = {
        row[0]: row[1:]
        for row in re.findall(r"^\| (0\.\d+) \|" + r" ([\d.]+) \|" * 4 + "$", text, re.MULTILINE)
    }
    assert len(shown) > 4
    starts = [{row["target"]: row for row in fleet[f"target, start {start} s"]} for start in (10, 60, 180)]
    for target, told in shown.items():
        rows = [start[float(target)] for start in starts]
        assert [float(one) for one in told] == [rows[1]["hours"], *(row["refused"] for row in rows)]
    assert f"{fleet['perfect_hours']:g} hours" in text


def test_the_document_counts_what_is_tried() -> None:
    text = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    told = re.search(r"all (\d+) combinations of .*, and (\d+) further ones", text)
    assert told is not None
    assert [int(one) for one in told.groups()] == [len(combinations()), len(FURTHER)]


def test_versions() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == chart["version"] == __version__

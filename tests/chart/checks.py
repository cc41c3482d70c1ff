"""What has to hold of every release, whatever its values are; each returns what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.chart.releases import Manifest, Release, Schemas

LAST_WORDS_S = 15
"""Most that the programs take after the time of a drain: the bridge's workers, then what tells the rest."""


def wrong(release: Release, schemas: Schemas) -> list[str]:
    """All that is wrong with a release."""
    found = [error for document in release.documents for error in schemas.errors(document)]
    found += [f"lint: {one}" for one in release.lint if one["severity"] > 1]
    for check in (_names, _references, _pods, _ends, _probes):
        found += check(release)
    return found


def _names(release: Release) -> Iterator[str]:
    seen = set()
    for document in release.documents:
        key = (document["kind"], document["metadata"]["name"])
        if key in seen:
            yield f"{key} comes twice"
        seen.add(key)
        if len(key[1]) > 63:
            yield f"{key}: more than a DNS label holds"
        labels = document["metadata"]["labels"]
        if not {"app.kubernetes.io/name", "app.kubernetes.io/instance", "helm.sh/chart"} <= labels.keys():
            yield f"{key}: without its labels"


def _matches(selector: Manifest, labels: Manifest) -> bool:
    return selector.items() <= labels.items()


def _references(release: Release) -> Iterator[str]:
    """Selectors of nothing or of several deployments' pods; ports, volumes and accounts that are not there."""
    templates = {
        name: deployment["spec"]["template"] for name, deployment in release.of("Deployment").items()
    }
    selectors: list[tuple[str, Manifest, Any]] = [
        (name, document["spec"]["selector"], document["spec"]["ports"])
        for name, document in release.of("Service").items()
    ]
    for kind in ("Deployment", "PodDisruptionBudget"):
        selectors += [
            (f"{kind} {name}", document["spec"]["selector"]["matchLabels"], [])
            for name, document in release.of(kind).items()
        ]
    selectors += [
        (f"NetworkPolicy {name}", document["spec"]["podSelector"]["matchLabels"], [])
        for name, document in release.of("NetworkPolicy").items()
    ]
    for name, selector, ports in selectors:
        selected = [one for one in templates.values() if _matches(selector, one["metadata"]["labels"])]
        if len(selected) != 1:
            yield f"{name}: it selects the pods of {len(selected)} deployments"
            continue
        offered = {port["name"] for one in selected[0]["spec"]["containers"] for port in one["ports"]}
        yield from (
            f"{name}: no port {port['targetPort']}" for port in ports if port["targetPort"] not in offered
        )
    for document in [*release.of("HorizontalPodAutoscaler").values(), *release.of("ScaledObject").values()]:
        target = document["spec"]["scaleTargetRef"]["name"]
        (deployment,) = [
            one for one in release.of("Deployment").values() if one["metadata"]["name"] == target
        ]
        if "replicas" in deployment["spec"]:
            yield f"{target}: scaled, and set to a number by each upgrade"
    for monitor in release.of("ServiceMonitor").values():
        services = release.of("Service").values()
        wanted = monitor["spec"]["selector"]["matchLabels"]
        found = [one for one in services if _matches(wanted, one["metadata"]["labels"])]
        offered = {port["name"] for one in found for port in one["spec"]["ports"]}
        yield from (
            f"ServiceMonitor: no port {one['port']}"
            for one in monitor["spec"]["endpoints"]
            if one["port"] not in offered
        )
    for route in [*release.of("GRPCRoute").values(), *release.of("HTTPRoute").values()]:
        for backend in (one for rule in route["spec"]["rules"] for one in rule["backendRefs"]):
            ports = [
                port["port"]
                for one in release.of("Service").values()
                if one["metadata"]["name"] == backend["name"]
                for port in one["spec"]["ports"]
            ]
            if backend["port"] not in ports:
                yield f"{route['kind']}: there is no {backend}"


def _pods(release: Release) -> Iterator[str]:
    for name in release.of("Deployment"):
        pod = release.pod(name)
        if pod["automountServiceAccountToken"] or pod["serviceAccountName"] not in (
            "default",
            *_accounts(release),
        ):
            yield f"{name}: {pod['serviceAccountName']}"
        context = pod["securityContext"]
        if not context["runAsNonRoot"] or context["seccompProfile"] != {"type": "RuntimeDefault"}:
            yield f"{name}: {context}"
        volumes = [volume["name"] for volume in pod["volumes"]]
        mounted = set()
        for container in pod["containers"]:
            safe = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            if container["securityContext"] != safe:
                yield f"{name} {container['name']}: {container['securityContext']}"
            mounts = container["volumeMounts"]
            mounted |= {mount["name"] for mount in mounts}
            paths = [mount["mountPath"] for mount in mounts]
            if len(set(paths)) != len(paths):
                yield f"{name} {container['name']}: {paths}"
            if container["name"] != "envoy" and "/tmp" not in paths:
                yield f"{name} {container['name']}: nowhere to write"
            limits = container["resources"]["limits"]
            # As many threads as it may run on at the same time.
            on_cpus = {"name": "ASR_DEVICE", "value": "cpu"} in container.get("env", [])
            asked = container["resources"]["requests"]["cpu"] if on_cpus else None
            if "memory" not in limits or limits.get("cpu") != asked:
                yield f"{name} {container['name']}: {container['resources']}"
        if sorted(volumes) != sorted(mounted):
            yield f"{name}: volumes {volumes}, mounts {sorted(mounted)}"
        if len(pod["topologySpreadConstraints"]) < 1:
            yield f"{name}: spread over nothing"


def _accounts(release: Release) -> list[str]:
    return [one["metadata"]["name"] for one in release.of("ServiceAccount").values()]


def _ends(release: Release) -> Iterator[str]:
    """Pods that would be killed before their streams are over."""
    for name in release.of("Deployment"):
        pod = release.pod(name)
        for container in pod["containers"]:
            stop = container.get("lifecycle", {}).get("preStop", {})
            if container["name"] == "envoy":
                needs = sum(int(number) for number in stop["exec"]["command"][-2:])
            else:
                values = {one["name"]: one.get("value") for one in container["env"]}
                needs = stop["sleep"]["seconds"] if stop else 0
                needs += int(values["ASR_DRAIN_S"]) + int(values.get("ASR_BRIDGE_CLOSE_S") or 0)
            if pod["terminationGracePeriodSeconds"] < needs + LAST_WORDS_S:
                yield f"{name} {container['name']}: {pod['terminationGracePeriodSeconds']} s for {needs} s"


def _probes(release: Release) -> Iterator[str]:
    """Probes that would kill what loads, drains or serves; ports that nobody answers."""
    for name in release.of("Deployment"):
        for container in release.pod(name)["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            asked = {
                kind: container[kind]["httpGet"]
                for kind in ("startupProbe", "readinessProbe", "livenessProbe")
                if kind in container
            }
            where = f"{name} {container['name']}"
            yield from (f"{where}: no port of {get}" for get in asked.values() if get["port"] not in ports)
            live = asked["livenessProbe"]
            if container["livenessProbe"]["terminationGracePeriodSeconds"] > 60:
                yield f"{where}: what hangs would keep its pod as long as streams may drain"
            expected = {
                "service": ("/livez", 9464),
                "bridge": ("/livez", 9465),
                "envoy": ("/server_info", 9902),
            }
            if (live["path"], ports[live["port"]]) != expected[container["name"]]:
                yield f"{where}: {live}"
            ready = asked["readinessProbe"]
            expected = {"service": ("/healthz", 9464), "bridge": ("/readyz", 8080), "envoy": ("/ready", 9902)}
            if (ready["path"], ports[ready["port"]]) != expected[container["name"]]:
                yield f"{where}: {ready}"

"""Values of the chart: what may be chosen, by dimension, and all combinations of it."""

from __future__ import annotations

from itertools import combinations as pairs_of
from itertools import product
from typing import Any

import yaml

from tests.support.process import ROOT

Values = dict[str, Any]

PROMETHEUS = "http://prometheus.monitoring:9090"
EDGE = [{"name": "edge", "namespace": "gateways"}]

DIMENSIONS: dict[str, dict[str, Values]] = {
    "device": {"cuda": {"device": "cuda"}, "cpu": {"device": "cpu"}},
    "model": {
        "claim": {},
        "scratch": {"model": {"hub": {"cache": {"type": "emptyDir"}}}},
        "image": {"model": {"source": "image", "name": "demo"}},
        "volume": {
            "model": {
                "source": "volume",
                "name": "/models/mine.nemo",
                "volume": {"source": {"persistentVolumeClaim": {"claimName": "models"}}},
            }
        },
    },
    "bridge": {mode: {"bridge": {"mode": mode}} for mode in ("apart", "sidecar", "none")},
    "proxy": {
        "envoy": {},
        "gateway": {
            "proxy": {
                "kind": "gateway",
                "gateway": {
                    "grpc": {"parentRefs": EDGE, "hostnames": ["grpc.example.com"]},
                    "websocket": {"hostnames": ["speech.example.com"]},
                },
            }
        },
        "none": {"proxy": {"kind": "none"}},
    },
    "autoscaling": {
        "none": {},
        "hpa": {"autoscaling": {"kind": "hpa"}},
        "keda": {"autoscaling": {"kind": "keda", "keda": {"prometheusAddress": PROMETHEUS}}},
    },
    "access": {
        "open": {},
        "secret": {"apiKeys": {"secretName": "asr-keys"}, "proxy": {"tls": {"secretName": "asr-front"}}},
    },
    "cluster": {
        "bare": {},
        "furnished": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "networkPolicy": {
                "enabled": True,
                "clients": [{"namespaceSelector": {"matchLabels": {"team": "voice"}}}],
                "egress": [{}],
            },
            "bridge": {"autoscaling": {"enabled": True}},
        },
    },
}

FURTHER: dict[str, Values] = {
    "a first try": yaml.safe_load((ROOT / "deploy/helm/first-try.yaml").read_text(encoding="utf-8")),
    "two GPUs": {"service": {"gpus": 2}},
    "another Secret for everything": {
        "service": {"tls": {"secretName": "asr-tls"}},
        "bridge": {"tls": {"secretName": "asr-bridge-tls"}},
        "proxy": {"tls": {"secretName": "asr-front"}},
        "apiKeys": {"secretName": "asr-keys", "key": "file", "testKeySecretName": "asr-test-key"},
        "model": {"hub": {"tokenSecret": {"name": "hub"}, "endpoint": "https://hub.example.com"}},
        "image": {"pullSecrets": ["registry"], "digest": f"sha256:{'a' * 64}"},
    },
    "mutual TLS": {
        "service": {"tls": {"secretName": "asr-tls", "clientCaSecretName": "asr-clients"}},
        "bridge": {"tls": {"clientSecretName": "asr-bridge-client"}},
        "proxy": {"kind": "none"},
    },
    "TLS in one pod": {
        "service": {"tls": {"secretName": "asr-tls"}},
        "bridge": {"mode": "sidecar", "tls": {"secretName": "asr-bridge-tls"}},
    },
    "a platform that chooses its users": {
        "podSecurityContext": {
            "runAsUser": None,
            "runAsGroup": None,
            "fsGroup": None,
            "fsGroupChangePolicy": None,
        }
    },
    "as it comes, and no more": {
        "preStopSeconds": 0,
        "probes": {"startupSeconds": 0},
        "service": {"disruptionBudget": None, "drainSeconds": 0, "tolerations": []},
        "bridge": {"disruptionBudget": None},
        "proxy": {"disruptionBudget": None, "drainSeconds": 0},
        "serviceAccount": {"create": False},
    },
    "placed by hand": {
        part: {
            "nodeSelector": {"pool": "speech"},
            "priorityClassName": "high",
            "affinity": {"podAntiAffinity": {}},
            "tolerations": [{"key": "speech", "operator": "Exists"}],
            "podLabels": {"team": "voice"},
            "podAnnotations": {"note": "of ours"},
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"team": "voice"}},
                }
            ],
        }
        for part in ("service", "bridge", "proxy")
    },
    "settings": {
        "service": {
            "settings": {
                "ASR_ATT_CTX": "70,1;70,13",
                "ASR_MAX_STREAMS": 96,
                "ASR_MAX_LOAD": 0.8,
                "ASR_MAX_MESSAGE_BYTES": 4000000,
                "ASR_IDLE_TIMEOUT_S": 86400,
                "ASR_LOG_FORMAT": "text",
            },
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "runtimeClassName": "nvidia",
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        },
        "bridge": {
            "settings": {"ASR_BRIDGE_PING_S": 40, "ASR_BRIDGE_WORKERS": 2, "ASR_BRIDGE_PAGE": False},
            "grpcTarget": "dns:///asr.mesh:50051",
        },
        "commonLabels": {"team": "voice"},
    },
    "a load balancer": {
        "proxy": {
            "service": {
                "type": "LoadBalancer",
                "annotations": {"example.com/kind": "network"},
                "loadBalancerClass": "example.com/network",
                "loadBalancerSourceRanges": ["192.0.2.0/24"],
            }
        }
    },
    "KEDA with a key": {
        "autoscaling": {
            "kind": "keda",
            "keda": {
                "prometheusAddress": PROMETHEUS,
                "authenticationRef": "prometheus",
                "fallbackReplicas": 4,
            },
            "targetLoad": 0.7,
        }
    },
    "a Gateway with two listeners": {
        "proxy": {
            "kind": "gateway",
            "gateway": {
                "grpc": {"parentRefs": [{"name": "edge", "sectionName": "grpc"}]},
                "websocket": {"parentRefs": [{"name": "edge", "sectionName": "https"}]},
            },
        }
    },
    "names as long as can be": {"fullnameOverride": "a" * 60},
    "all at once": {
        "service": {
            "strategy": {"type": "Recreate"},
            "disruptionBudget": {"minAvailable": 1},
            "settings": {"ASR_IDLE_TIMEOUT_S": "600.5"},
        },
        "bridge": {"settings": {"ASR_BRIDGE_PING_S": "30.5"}},
    },
    "a closed network": {
        "networkPolicy": {
            "enabled": True,
            "clients": [{"namespaceSelector": {"matchLabels": {"team": "voice"}}}],
            "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
        },
    },
    "scaled by load too": {"autoscaling": {"kind": "hpa", "targetLoad": 0.6}},
}
"""Beside the combinations: each once, on the chart's own values."""


def combinations() -> dict[str, Values]:
    """All combinations of the dimensions, by a name that says which."""
    return {" ".join(names): _values(names) for names in product(*DIMENSIONS.values())}


def pairs() -> dict[str, Values]:
    """So few combinations that any two choices of different dimensions meet in one of them."""
    left = {pair for names in product(*DIMENSIONS.values()) for pair in _pairs(names)}
    chosen = {}
    while left:
        best = max(product(*DIMENSIONS.values()), key=lambda names: len(left & _pairs(names)))
        left -= _pairs(best)
        chosen[" ".join(best)] = _values(best)
    return chosen


def _pairs(names: tuple[str, ...]) -> set[Any]:
    return set(pairs_of(enumerate(names), 2))


def _values(names: tuple[str, ...]) -> Values:
    values: Values = {}
    for choices, name in zip(DIMENSIONS.values(), names, strict=True):
        _merge(values, choices[name])
    return values


def _merge(values: Values, part: Values) -> None:
    """Adds a part to values in place; the part itself is never written to."""
    for key, value in part.items():
        if isinstance(value, dict):
            _merge(values.setdefault(key, {}), value)
        else:
            values[key] = value

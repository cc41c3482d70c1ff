"""Health of what runs in this container, for Docker's HEALTHCHECK: exit code 0 if it serves, 1 with a line if not.

healthcheck.py service    SERVING once the model is made and warm: grpc.health.v1, or with TLS, which would ask for
                          trust and maybe for a certificate, GET /healthz of the metrics port
healthcheck.py bridge     GET /readyz: the bridge is up and its service serves
healthcheck.py all        both
healthcheck.py            whichever entrypoint.sh has started here
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from pathlib import Path

TIMEOUT_S = 4.0


def service() -> str:
    """Asks the service; "" if it serves, else what is wrong."""
    if os.environ.get("ASR_TLS_CERT"):
        port = os.environ.get("ASR_METRICS_PORT") or "0"
        if port == "0":
            return "with ASR_TLS_CERT set, the health check needs ASR_METRICS_PORT"
        return _http(f"http://{_host('ASR_METRICS_HOST')}:{port}/healthz")
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    target = f"{_host('ASR_HOST')}:{os.environ.get('ASR_GRPC_PORT') or 50051}"
    with grpc.insecure_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S
            )
        except grpc.RpcError as error:
            return f"{target}: {error.code().name} {error.details()}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return f"{target}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"


def bridge() -> str:
    """Asks the bridge; "" if it is ready, else what is wrong."""
    scheme = "https" if os.environ.get("ASR_BRIDGE_TLS_CERT") else "http"
    return _http(f"{scheme}://{_host('ASR_HOST')}:{os.environ.get('ASR_PORT') or 8080}/readyz")


def _host(name: str) -> str:
    """The address that a program listens on, for a URL; localhost where it listens on all."""
    host = os.environ.get(name) or "localhost"
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _http(url: str) -> str:
    try:
        # Whether it is up is asked, not who it is: the certificate is for other names than localhost.
        context = ssl._create_unverified_context() if url.startswith("https") else None
        with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context):
            return ""
    except OSError as error:
        return f"{url}: {error}"


def both() -> str:
    """Asks both; "" if they serve, else what is wrong with one of them."""
    return service() or bridge()


def main() -> int:
    """Command line: which of them."""
    checks = {"service": service, "bridge": bridge, "all": both}
    noted = Path(os.environ.get("TMPDIR") or "/tmp", "asr-role")
    role = sys.argv[1:] or (noted.read_text().split() if noted.is_file() else [])
    if len(role) != 1 or role[0] not in checks:
        print(f"usage: healthcheck.py {'|'.join(checks)} (no role in {noted})", file=sys.stderr)
        return 2
    wrong = checks[role[0]]()
    if wrong:
        print(wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

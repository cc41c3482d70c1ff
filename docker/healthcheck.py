"""Health of what runs in this container, for Docker's HEALTHCHECK: exit code 0 if it serves, 1 with a line if not.

healthcheck.py service    grpc.health.v1, SERVING once the model is loaded and warm
healthcheck.py bridge     GET /readyz: the bridge is up and its service serves
"""

from __future__ import annotations

import os
import sys
import urllib.request

TIMEOUT_S = 4.0


def service() -> str:
    """Asks the service; "" if it serves, else what is wrong."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    target = f"localhost:{os.environ.get('ASR_GRPC_PORT') or 50051}"
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
    url = f"http://localhost:{os.environ.get('ASR_PORT') or 8080}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S):
            return ""
    except OSError as error:
        return f"{url}: {error}"


def main() -> int:
    """Command line: which of the two."""
    checks = {"service": service, "bridge": bridge}
    if len(sys.argv) != 2 or sys.argv[1] not in checks:
        print(f"usage: healthcheck.py {'|'.join(checks)}", file=sys.stderr)
        return 2
    wrong = checks[sys.argv[1]]()
    if wrong:
        print(wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

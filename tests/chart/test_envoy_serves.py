"""The chart's Envoy as it is rendered, with TLS on both sides, before a real service and bridge."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import yaml
from asr.v1 import asr_pb2_grpc
from websockets.asyncio.client import connect

from testbed.processes import free_port
from tests.chart.releases import NAMESPACE, Release
from tests.support import certificates, envoy
from tests.support.audio import speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, listen
from tests.support.process import PATIENCE_S, AsrService
from tests.support.rpc import Stub, transcribe

PCM = speechlike(1.0)
ALL = "another Secret for everything"


def moved(config: Any, listens: dict[str, int], instances: dict[str, int], admin: int) -> Any:
    """The configuration with other ports: of listeners by name, and of clusters by name, on this machine."""
    for listener in config["static_resources"]["listeners"]:
        listener["address"]["socket_address"] = {
            "address": "127.0.0.1",
            "port_value": listens[listener["name"]],
        }
    for cluster in config["static_resources"]["clusters"]:
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        endpoint["endpoint"]["address"]["socket_address"] = {
            "address": "127.0.0.1",
            "port_value": (instances | {"admin": admin})[cluster["name"]],
        }
    config["admin"]["address"]["socket_address"]["port_value"] = admin
    return config


def furnish(folder: Path, release: Release, authority: certificates.Authority, **ports: Any) -> Path:
    """Puts what is mounted in Envoy's pod into a folder; its configuration there, moved as `ports` say."""
    cert, key = authority.issue("front")
    mounted = {
        "tls/tls.crt": cert,
        "tls/tls.key": key,
        "service-ca/ca.crt": authority.cert,
        "bridge-ca/ca.crt": authority.cert,
    }
    for place, source in mounted.items():
        (folder / place).parent.mkdir(exist_ok=True)
        shutil.copy(source, folder / place)
    data = release.of("ConfigMap")["proxy"]["data"]
    config = moved(yaml.safe_load(data["envoy.yaml"]), **ports)
    for name, content in {**data, "envoy.yaml": yaml.safe_dump(config)}.items():
        (folder / name).write_text(content.replace("/etc/envoy", str(folder)), encoding="utf-8")
    return folder / "envoy.yaml"


def furnish_for(
    service: AsrService,
    folder: Path,
    release: Release,
    authority: certificates.Authority,
    listens: dict[str, int],
    admin: envoy.Admin,
) -> Path:
    """`furnish` before one service and no bridge."""
    instances = {"services": int(service.target.rsplit(":", 1)[1]), "bridges": free_port()}
    return furnish(folder, release, authority, listens=listens, instances=instances, admin=admin.port)


def free_listeners() -> dict[str, int]:
    """Ports for Envoy's listeners, by their names."""
    return {name: free_port() for name in ("grpc", "tls", "probes")}


async def until(told: Callable[[], object]) -> None:
    """Returns once Envoy tells something else than nothing."""
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(told):  # noqa: ASYNC110 - another process's state can only be asked
            await asyncio.sleep(0.05)


def status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def test_with_tls_on_both_sides(releases: dict[str, Release], tmp_path: Path) -> None:
    envoy.needs_envoy()
    authority = certificates.Authority(tmp_path)
    service_cert, service_key = authority.issue("service", host=f"demo-asr-service.{NAMESPACE}.svc")
    bridge_cert, bridge_key = authority.issue("bridge", host=f"demo-asr-bridge.{NAMESPACE}.svc")
    listens, admin = free_listeners(), envoy.Admin()
    with (
        await asyncio.to_thread(AsrService, ASR_TLS_CERT=service_cert, ASR_TLS_KEY=service_key) as service,
        # As in its pod: it reaches the service through Envoy's port within the cluster.
        Bridge(
            f"127.0.0.1:{listens['grpc']}",
            ASR_BRIDGE_TLS_CERT=bridge_cert,
            ASR_BRIDGE_TLS_KEY=bridge_key,
        ) as bridge,
    ):
        instances = {"services": int(service.target.rsplit(":", 1)[1]), "bridges": bridge.port}
        path = furnish(
            tmp_path, releases[ALL], authority, listens=listens, instances=instances, admin=admin.port
        )
        with envoy.start(path) as proxy:
            await envoy.wait_listening(proxy, admin)
            await until(lambda: admin.healthy("bridges"))
            trust = ssl.create_default_context(cafile=str(authority.cert))
            credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
            async with grpc.aio.secure_channel(f"localhost:{listens['tls']}", credentials) as channel:
                stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
                expected = await transcribe(stub, PCM)
                assert expected
            async with connect(f"wss://localhost:{listens['tls']}", ssl=trust) as client:
                for message in (INIT, PCM, CLOSE):
                    await client.send(message)
                assert (await listen(client)).final["text"] == expected
            told = [
                await asyncio.to_thread(status, listens["probes"], path)
                for path in ("/ready", "/server_info", "/stats/prometheus", "/quitquitquit", "/config_dump")
            ]
            assert told == [200, 200, 200, 404, 404], "of its administration, what probes ask"


def put(folder: Path, name: str, source: Path) -> None:
    """Puts a file into a mounted Secret as the kubelet does: all names are links, and one link is moved."""
    version = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    shutil.copy(source, version / name)
    link, moved = folder / name, folder / "..data_tmp"
    moved.symlink_to(version.name)
    moved.rename(folder / "..data")
    if not link.is_symlink():
        link.unlink()
        link.symlink_to(f"..data/{name}")


async def test_an_authority_that_changes_is_followed(releases: dict[str, Release], tmp_path: Path) -> None:
    """A Secret's ca.crt may change with its certificate: Envoy would reach no instance until it is started anew."""
    envoy.needs_envoy()
    before, now = (certificates.Authority(tmp_path, name) for name in ("before", "now"))
    cert, key = now.issue("service", host=f"demo-asr-service.{NAMESPACE}.svc")
    listens, admin = free_listeners(), envoy.Admin()
    with await asyncio.to_thread(AsrService, ASR_TLS_CERT=cert, ASR_TLS_KEY=key) as service:
        path = furnish_for(service, tmp_path, releases[ALL], before, listens, admin)
        put(tmp_path / "service-ca", "ca.crt", before.cert)
        with envoy.start(path) as proxy:
            await envoy.wait_listening(proxy, admin)
            await until(lambda: admin.counter("cluster.services.ssl.fail_verify_error"))
            assert admin.healthy("services") == set()
            put(tmp_path / "service-ca", "ca.crt", now.cert)
            await until(lambda: admin.healthy("services"))
            async with grpc.aio.insecure_channel(f"127.0.0.1:{listens['grpc']}") as channel:
                stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
                assert await transcribe(stub, PCM)


async def test_an_instance_with_another_name_gets_no_stream(
    releases: dict[str, Release], tmp_path: Path
) -> None:
    """Whoever takes an address of the service's without its certificate is out of the reach of audio."""
    envoy.needs_envoy()
    authority = certificates.Authority(tmp_path)
    cert, key = authority.issue("stranger", host=f"other.{NAMESPACE}.svc")
    admin = envoy.Admin()
    with await asyncio.to_thread(AsrService, ASR_TLS_CERT=cert, ASR_TLS_KEY=key) as service:
        path = furnish_for(service, tmp_path, releases[ALL], authority, free_listeners(), admin)
        with envoy.start(path) as proxy:
            await envoy.wait_listening(proxy, admin)
            await until(lambda: admin.counter("cluster.services.ssl.fail_verify_san"))
            assert admin.healthy("services") == set()

"""Several front ends behind one port: each is the whole service to its clients, and holds them to the same rules."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")
pytest.importorskip("opentelemetry.sdk.trace", reason="the extra otel is not installed: make setup")

from asr_service.access.api_keys import new_key
from testbed.processes import children_by_name, free_port
from tests.support import riva, rpc
from tests.support.audio import cut, speechlike
from tests.support.certificates import Authority
from tests.support.collector import Collector, facts
from tests.support.front_ends import ALONE, reach_each
from tests.support.process import PATIENCE_S, AsrService, run_python
from ws_bridge.call import Call

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a port is shared on Linux only")

FRONT_ENDS = 3
PCM = speechlike(1.0, seed=5)
HEALTH = health_pb2.HealthCheckRequest(service="asr.v1.SpeechService")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what is left open."""
    async with AsyncExitStack() as stack:
        yield stack


async def hold(channel: grpc.aio.Channel, metadata: Metadata = ()) -> Call:
    """A stream that stays open, or was refused."""
    call = Call(asr_pb2_grpc.SpeechServiceStub(channel), metadata)
    await call.write(rpc.config())
    await call.admitted()
    return call


async def end(call: Call) -> str:
    """The text of a stream that was open, or the message of its error."""
    await call.half_close()
    text = rpc.text([response async for response in call.responses()])
    outcome = await call.outcome()
    return text if outcome.ok else outcome.message


async def services(channel: grpc.aio.Channel, metadata: Metadata = ()) -> set[str]:
    """What reflection lists."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = [one async for one in stub.ServerReflectionInfo(iter([asked]), metadata=metadata)]
    return {service.name for service in answer.list_services_response.service}


def page_of(port: int) -> dict[str, float]:
    """The values of a metrics page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


async def test_each_answers_for_the_whole_and_all_drain_together(stack: AsyncExitStack) -> None:
    metrics_port = free_port()
    with await asyncio.to_thread(
        AsrService,
        ASR_FRONT_ENDS=FRONT_ENDS,
        ASR_ENGINES=2,
        ASR_MAX_STREAMS=25,
        ASR_MAX_LOAD=0,
        ASR_METRICS_PORT=metrics_port,
    ) as service:
        processes = children_by_name(service.pid)
        assert {name for name in processes if "front" in name} == {
            "asr-front-0",
            "asr-front-1",
            "asr-front-2",
        }
        channels = await reach_each(service, FRONT_ENDS, stack)
        before = await asyncio.to_thread(page_of, metrics_port)
        held = [await hold(channel) for channel in channels for _ in range(2)]
        stubs: list[rpc.Stub] = [asr_pb2_grpc.SpeechServiceStub(channel) for channel in channels]
        watches = []
        for channel, stub in zip(channels, stubs, strict=True):
            told = await stub.GetServiceInfo(pb.GetServiceInfoRequest())
            (served,) = told.served
            assert (told.max_streams, told.active_streams) == (50, 6)
            assert (served.max_streams, served.active_streams) == (50, 6)
            assert list(served.devices) == ["cpu", "cpu"]
            watches.append(health_pb2_grpc.HealthStub(channel).Watch(HEALTH))
            assert (await watches[-1].read()).status == SERVING
            assert {
                "asr.v1.SpeechService",
                "grpc.health.v1.Health",
                "nvidia.riva.asr.RivaSpeechRecognition",
            } <= (await services(channel))
        texts = [await rpc.transcribe(stub, PCM) for stub in stubs]
        texts += [
            riva.text(await riva.talk(riva.stub_on(channel), [riva.opening(), *riva.packets(PCM)])).strip()
            for channel in channels
        ]
        assert set(texts[:3]) == {texts[0]} != {""}
        # Riva's utterances end by themselves; the words are the same.
        assert {text.lower().replace(".", "") for text in texts} == {texts[0]}
        page = await asyncio.to_thread(page_of, metrics_port)
        assert page["asr_streams_active"] == page['asr_slots{state="leased"}'] == 6
        assert page["asr_streams_limit"] == 6 + page['asr_slots{state="free"}'] == 50
        assert page["asr_streams_opened_total"] - before["asr_streams_opened_total"] == 6 + 6
        assert page["asr_received_bytes_total"] - before["asr_received_bytes_total"] == 6 * len(PCM)

        service.signal()
        for watch, channel in zip(watches, channels, strict=True):
            assert (await watch.read()).status == NOT_SERVING
            refused = await hold(channel)
            assert await end(refused) == "the service is draining"
        for call in held:
            await call.write(rpc.audio(PCM))
            assert await end(call) == texts[0]
        assert await asyncio.to_thread(service.wait) == 0


async def test_the_load_generator_reaches_as_many_as_it_has_connections() -> None:
    """Connections are dealt out, and streams stay on theirs."""
    with await asyncio.to_thread(
        AsrService, ASR_FRONT_ENDS=FRONT_ENDS, ASR_MAX_STREAMS=48, ASR_MAX_LOAD=0
    ) as service:
        reached = []
        for streams, channels in ((8, 1), (48, 48)):
            seen = len(service.lines)
            options = ["--streams", streams, "--channels", channels, "--duration", 0.2, "--ramp", 0, "--fast"]
            done = await asyncio.to_thread(
                run_python, "-m", "clients.loadgen", "--grpc", service.target, *options
            )
            assert done.returncode == 0, done.stdout + done.stderr
            found = re.findall(r"stream=load-\d+ .*front_end=(\d)", "\n".join(service.lines[seen:]))
            assert len(found) == streams
            reached.append(len({*found}))
        assert reached == [1, FRONT_ENDS]
    done = await asyncio.to_thread(run_python, "-m", "clients.loadgen", "--ws", "ws://a", "--channels", 2)
    assert done.returncode == 2 and "--channels is of gRPC" in done.stderr


# --------------------------------------------------------------------------------------------------------------- access


class Guarded:
    """A service that shows a certificate, asks for one and for keys, and tells a collector of its streams.

    Attributes:
        keys: file of the keys.
        alice: metadata of a key that may have two streams.
    """

    def __init__(self, folder: Path, collector: Collector) -> None:
        self.collector = collector
        self.ca = Authority(folder)
        self.cert, self.private = folder / "live.pem", folder / "live.key"
        self.use(self.ca.issue("first"))
        self.client = self.ca.issue("client")
        key, line = new_key("alice", 2)
        self.alice = (("authorization", f"Bearer {key}"),)
        self.keys = folder / "keys"
        self.keys.write_text(line + "\n")
        self.service = AsrService(
            ASR_FRONT_ENDS=FRONT_ENDS,
            ASR_ENGINES=2,
            ASR_MAX_STREAMS=40,
            ASR_MAX_LOAD=0,
            ASR_TLS_CERT=self.cert,
            ASR_TLS_KEY=self.private,
            ASR_TLS_CLIENT_CA=self.ca.cert,
            ASR_API_KEYS_FILE=self.keys,
            ASR_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY=50,
        )

    def use(self, pair: tuple[Path, Path]) -> None:
        """Has the service show a certificate from the next handshake on."""
        for own, new in zip((self.private, self.cert), pair[::-1], strict=True):
            part = own.with_suffix(".part")
            part.write_bytes(new.read_bytes())
            part.replace(own)

    def connect(self, target: str, identity: tuple[Path, Path] | None = None) -> grpc.aio.Channel:
        """A channel of somebody who shows a certificate."""
        cert, key = identity or self.client
        credentials = grpc.ssl_channel_credentials(
            self.ca.cert.read_bytes(), key.read_bytes(), cert.read_bytes()
        )
        return grpc.aio.secure_channel(target, credentials, options=ALONE)

    def shown(self, with_certificate: bool = True) -> str:
        """The name that a handshake shows, "" if it fails."""
        context = ssl.create_default_context(cafile=str(self.ca.cert))
        context.set_alpn_protocols(["h2"])
        if with_certificate:
            context.load_cert_chain(*self.client)
        host, _, port = self.service.target.rpartition(":")
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            socket.create_connection((host, int(port)), timeout=PATIENCE_S) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            shown: Any = wrapped.getpeercert()
            # Whether the client's own certificate is taken comes with what is read first.
            if wrapped.recv(1):
                return str({name: value for group in shown["subject"] for name, value in group}["commonName"])
        return ""


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    collector = Collector()
    made = await asyncio.to_thread(Guarded, tmp_path, collector)
    with made.service:
        yield made
    collector.close()


async def test_each_keeps_strangers_out_and_lets_friends_in(guarded: Guarded, stack: AsyncExitStack) -> None:
    channels = await reach_each(
        guarded.service, FRONT_ENDS, stack, connect=guarded.connect, metadata=guarded.alice
    )
    texts = set()
    for number, channel in enumerate(channels):
        assert (await health_pb2_grpc.HealthStub(channel).Check(HEALTH)).status == SERVING
        stub: rpc.Stub = asr_pb2_grpc.SpeechServiceStub(channel)
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            call = stub.Recognize(iter([rpc.config()]), metadata=metadata)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            info = stub.GetServiceInfo(pb.GetServiceInfoRequest(), metadata=metadata)
            assert await info.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "asr.v1.SpeechService" in await services(channel, guarded.alice)
        requests = [rpc.config(stream_id=f"traced-{number}"), *map(rpc.audio, cut(PCM, 3200))]
        call = stub.Recognize(iter(requests), metadata=guarded.alice)
        texts.add(rpc.text([response async for response in call]))
        opening = riva.opening()
        opening.id.value = f"riva-{number}"
        await riva.talk(riva.stub_on(channel), [opening, *riva.packets(PCM)], metadata=guarded.alice)
        for name in (f"traced-{number}", f"riva-{number}"):
            span = facts((await guarded.collector.span(name)).attributes)
            assert (span["asr.key"], span["asr.outcome"], span["asr.model"]) == ("alice", "ok", "null")
    assert len(texts) == 1 and texts != {""}
    # Each handshake leads to any of them; so many lead to all.
    shown = [await asyncio.to_thread(guarded.shown) for _ in range(5)]
    assert set(shown) == {"first"}
    strangers = [await asyncio.to_thread(guarded.shown, with_certificate=False) for _ in range(20)]
    assert set(strangers) == {""}
    guarded.use(guarded.ca.issue("second"))
    shown = [await asyncio.to_thread(guarded.shown) for _ in range(20)]
    assert set(shown) == {"second"}
    assert await asyncio.to_thread(guarded.service.stop) == 0


async def test_the_limit_of_a_key_holds_over_all(guarded: Guarded, stack: AsyncExitStack) -> None:
    channels = await reach_each(
        guarded.service, FRONT_ENDS, stack, connect=guarded.connect, metadata=guarded.alice
    )
    for _ in range(3):
        # All at once, over all front ends: as many get in as may.
        calls = await asyncio.gather(*(hold(channels[n % FRONT_ENDS], guarded.alice) for n in range(30)))
        assert Counter([await end(call) for call in calls]) == {
            "": 2,
            "all 2 streams of key 'alice' are open": 28,
        }
    # A stream that its client knows to be over keeps nobody out, whichever front ends the two come through.
    held = [await hold(channels[0], guarded.alice) for _ in range(2)]
    for number in range(60):
        assert await end(held.pop(0)) == ""
        held.append(await hold(channels[number % FRONT_ENDS], guarded.alice))
    for call in held:
        assert await end(call) == ""

    key, line = new_key("bob")
    with guarded.keys.open("a") as keys:
        keys.write(line + "\n")
    bob = (("authorization", f"Bearer {key}"),)
    for channel in channels:
        async with asyncio.timeout(PATIENCE_S):
            # The file is looked at when somebody calls, once a second at most.
            while await end(await hold(channel, bob)):
                pass

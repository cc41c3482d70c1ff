"""Who is let in: TLS, certificates of clients, API keys, quotas, connections; and what changes without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from grpc.aio import UnaryUnaryMultiCallable
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from asr_service.access.api_keys import new_key
from tests.support.audio import cut, silence, speechlike
from tests.support.certificates import Authority
from tests.support.process import PATIENCE_S, AsrService, printed
from tests.support.rpc import Stub, audio, config, details, failure, retry_after_s, transcribe, until_active
from ws_bridge.call import Call  # with the service's statuses; grpc.aio makes some up

PCM = speechlike(1.0, seed=5)


async def ending(call: Any) -> grpc.StatusCode:
    """How a call ends; what it answers is read."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for _ in call:
            pass
    return cast(grpc.StatusCode, await call.code())


def replace(path: Path, text: str) -> None:
    """Puts new text in a file's place at once, as a careful editor does."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


# ------------------------------------------------------------------------------------------------------------------ TLS


def shown_name(target: str, ca: Path, identity: tuple[Path, Path] | None = None) -> str:
    """Common name of the certificate that the server shows at a new handshake."""
    context = ssl.create_default_context(cafile=str(ca))
    if identity is not None:
        context.load_cert_chain(*identity)
    host, _, port = target.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=PATIENCE_S) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        shown: Any = wrapped.getpeercert()
    return str({name: value for group in shown["subject"] for name, value in group}["commonName"])


def secure(target: str, ca: Path, identity: tuple[Path, Path] | None = None) -> grpc.aio.Channel:
    chain = (identity[1].read_bytes(), identity[0].read_bytes()) if identity else (None, None)
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca.read_bytes(), *chain))


async def test_tls_and_a_certificate_that_changes_while_streams_run(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    first, second = ca.issue("first"), ca.issue("second")
    cert, key = tmp_path / "live.pem", tmp_path / "live.key"
    replace(cert, first[0].read_text())
    replace(key, first[1].read_text())
    with AsrService(ASR_TLS_CERT=cert, ASR_TLS_KEY=key) as service:
        async with secure(service.target, ca.cert) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, PCM)
            call = stub.Recognize()
            await call.write(config())
            await call.initial_metadata()
            assert await asyncio.to_thread(shown_name, service.target, ca.cert) == "first"
            replace(cert, second[0].read_text())
            assert await asyncio.to_thread(shown_name, service.target, ca.cert) == "first", "half a pair"
            service.wait_line("the certificate in use stays")
            replace(key, second[1].read_text())
            assert await asyncio.to_thread(shown_name, service.target, ca.cert) == "second"
            for packet in cut(PCM, 640):
                await call.write(audio(packet))
            await call.done_writing()
            finals = [response.result.text async for response in call if response.result.is_final]
            assert finals == [expected]
        async with grpc.aio.insecure_channel(service.target) as plain:
            error = await failure(asr_pb2_grpc.SpeechServiceStub(plain), [config()])
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert service.stop() == 0


async def test_mutual_tls(tmp_path: Path) -> None:
    """Clients of the authority are let in, others are not."""
    ca = Authority(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "stranger").issue("client")
    cert, key = ca.issue("server")
    with AsrService(ASR_TLS_CERT=cert, ASR_TLS_KEY=key, ASR_TLS_CLIENT_CA=ca.cert) as service:
        async with secure(service.target, ca.cert, ca.issue("client")) as channel:
            assert await transcribe(asr_pb2_grpc.SpeechServiceStub(channel), PCM)
        for identity in (None, stranger):
            async with secure(service.target, ca.cert, identity) as channel:
                error = await failure(asr_pb2_grpc.SpeechServiceStub(channel), [config()])
                assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert service.stop() == 0


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    cert, key = ca.issue("server")
    _, other = ca.issue("other")
    for settings, said in (
        ({"ASR_TLS_CERT": cert}, "ASR_TLS_CERT is set without ASR_TLS_KEY"),
        ({"ASR_TLS_CLIENT_CA": ca.cert}, "ASR_TLS_CLIENT_CA is set without"),
        ({"ASR_TLS_CERT": cert, "ASR_TLS_KEY": other}, "KEY_VALUES_MISMATCH"),
        (
            {"ASR_TLS_CERT": cert, "ASR_TLS_KEY": tmp_path / "none"},
            f"ASR_TLS_KEY={tmp_path}/none: No such file",
        ),
        ({"ASR_TLS_CERT": cert, "ASR_TLS_KEY": key, "ASR_TLS_CLIENT_CA": key}, "no PEM certificates"),
        ({"ASR_API_KEYS_FILE": tmp_path / "none"}, f"ASR_API_KEYS_FILE={tmp_path}/none: No such file"),
    ):
        with AsrService(wait=False, **settings) as service:
            assert service.wait() == 2
            assert said in service.output
            assert "Traceback" not in service.output


# ----------------------------------------------------------------------------------------------------------------- keys


class Keyed:
    """A service that asks for keys, and who has one."""

    def __init__(self, service: AsrService, path: Path, key: str, channel: grpc.aio.Channel) -> None:
        self.service, self.path, self.key, self.channel = service, path, key, channel
        self.stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)

    async def code(self, *headers: str) -> grpc.StatusCode:
        """How a stream with these authorization headers ends."""
        call = self.stub.Recognize(
            iter([config()]), metadata=tuple(("authorization", text) for text in headers)
        )
        return await ending(call)


@pytest.fixture
async def keyed(tmp_path: Path) -> AsyncIterator[Keyed]:
    path = tmp_path / "keys"
    key, line = new_key("alice", 2)
    path.write_text(line + "\n")
    with AsrService(ASR_API_KEYS_FILE=path, ASR_MAX_STREAMS=4, ASR_LOG_FORMAT="json", wait=False) as service:
        target = service.wait_ready().rstrip('"}')
        async with grpc.aio.insecure_channel(target) as channel:
            yield Keyed(service, path, key, channel)


async def test_nothing_but_health_without_a_key(keyed: Keyed) -> None:
    health = health_pb2_grpc.HealthStub(keyed.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", keyed.key),)):
        reflection = reflection_pb2_grpc.ServerReflectionStub(keyed.channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        unknown: UnaryUnaryMultiCallable[Any, Any] = keyed.channel.unary_unary(
            "/asr.v1.SpeechService/NoSuchMethod"
        )
        for call in (
            keyed.stub.Recognize(iter([config()]), metadata=metadata),
            keyed.stub.GetServiceInfo(pb.GetServiceInfoRequest(), metadata=metadata),
            reflection.ServerReflectionInfo(iter([asked]), metadata=metadata),
            unknown(b"", metadata=metadata),
        ):
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "authorization: Bearer" in await call.details()
    assert details(await failure(keyed.stub, [config()]))["ErrorInfo"].reason == "UNAUTHENTICATED"  # type: ignore[attr-defined]


async def test_a_key_opens_everything(keyed: Keyed) -> None:
    right = f"Bearer {keyed.key}"
    ok = grpc.StatusCode.OK
    assert await keyed.code(right) is ok
    assert await keyed.code(f"bearer   {keyed.key} ") is ok
    assert await keyed.code(right, right) is ok, "a proxy that sends it twice"
    assert await keyed.code("Basic abc", right) is ok
    info = await keyed.stub.GetServiceInfo(pb.GetServiceInfoRequest(), metadata=(("authorization", right),))
    assert info.model == "null"
    assert keyed.service.stop() == 0
    ended = [json.loads(line) for line in keyed.service.lines if "stream ended" in line]
    assert {line["key"] for line in ended} == {"alice"}
    assert keyed.key not in keyed.service.output


async def test_streams_of_one_key_are_limited(keyed: Keyed) -> None:
    bob, line = new_key("bob")
    replace(keyed.path, keyed.path.read_text() + line + "\n")
    alice = (("authorization", f"Bearer {keyed.key}"),)
    held = [keyed.stub.Recognize(metadata=alice) for _ in range(2)]
    for call in held:
        await call.write(config())
        await call.initial_metadata()
    third = keyed.stub.Recognize(iter([config()]), metadata=alice)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await third.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "key 'alice'" in (caught.value.details() or "")
    assert details(caught.value)["ErrorInfo"].reason == "QUOTA_REACHED"  # type: ignore[attr-defined]
    assert retry_after_s(caught.value) > 0
    async with asyncio.timeout(PATIENCE_S):
        # The file is looked at when somebody calls, once a second at most.
        while await keyed.code(f"Bearer {bob}") is not grpc.StatusCode.OK:
            pass
    for call in held:
        await call.done_writing()
        assert await ending(call) is grpc.StatusCode.OK
    assert await keyed.code(f"Bearer {keyed.key}") is grpc.StatusCode.OK


def test_the_command_line_makes_a_key() -> None:
    told = printed("-m", "asr_service", "keys", "new", "someone")
    assert "asr_" in told and "someone:" in told


# --------------------------------------------------------------------------------------------------------------- limits


async def test_connections_are_limited() -> None:
    """Those that are open go on; one more is closed as it comes, and let in once there is room."""
    with AsrService(ASR_MAX_CONNECTIONS=2) as service:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100))
        channels = [grpc.aio.insecure_channel(service.target, options=options) for _ in range(3)]
        first, second, third = (asr_pb2_grpc.SpeechServiceStub(channel) for channel in channels)
        assert await transcribe(first, PCM) == await transcribe(second, PCM) != ""
        assert (await failure(third, [config()])).code() is grpc.StatusCode.UNAVAILABLE
        assert await transcribe(first, PCM)
        await channels[1].close()
        info = await third.GetServiceInfo(pb.GetServiceInfoRequest(), wait_for_ready=True, timeout=PATIENCE_S)
        assert info.model == "null"
        for channel in channels:
            await channel.close()
        assert service.stop() == 0


async def test_a_client_that_does_not_read_its_finals() -> None:
    """It is told, and its slot is free, while it still does not read; its finals up to there are not lost."""
    utterance = b"\x00\x40\x00\xc0" * 1600 + silence(0.4)
    with AsrService(ASR_MAX_UNREAD=50) as service:
        small = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
        async with grpc.aio.insecure_channel(service.target, options=small) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            call = Call(stub)
            await call.write(config(endpointing=pb.Endpointing(trailing_silence_ms=100), word_times=True))

            async def send() -> None:
                while await call.write(audio(utterance * 20)):
                    pass

            sending = asyncio.create_task(send())
            await until_active(stub, 1)
            await until_active(stub, 0)
            unread = [response.result async for response in call.responses() if response.result.is_final]
            assert len(unread) >= 50
            outcome = await call.outcome()
            assert outcome.number == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            assert "50 results were not read" in outcome.message
            await sending
        assert service.stop() == 0

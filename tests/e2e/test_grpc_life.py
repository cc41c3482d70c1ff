"""The life of the process: settings, start, health, reflection, drain, failure."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from base64 import b64decode
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testbed.processes import free_port
from tests.support.audio import FULL_SCALE, cut, speechlike
from tests.support.process import PATIENCE_S, AsrService, run_python
from tests.support.rpc import (
    Stub,
    audio,
    config,
    details,
    failure,
    finalize,
    finals,
    retry_after_s,
    text,
    transcribe,
)

SERVICE = "asr.v1.SpeechService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def open_stream(stub: Stub, pcm: bytes = b"") -> Any:
    """An admitted stream that has sent some audio."""
    call = stub.Recognize()
    await call.write(config())
    await call.initial_metadata()
    for packet in cut(pcm, 640):
        await call.write(audio(packet))
    return call


async def status_of(call: Any) -> grpc.aio.AioRpcError:
    """The error an open stream ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value


# ------------------------------------------------------------------------------------------------------------- settings


def run(*argv: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Runs `python -m asr_service` to its end."""
    return run_python("-m", "asr_service", *argv, **settings)


BAD_SETTINGS = {
    "ASR_GRPC_PORT": ("99999", "less than or equal to 65535"),
    "ASR_STEP_MS": ("soon", "a valid number"),
    "ASR_MAX_BATCH": ("0", "greater than or equal to 1"),
    "ASR_DECODER": ("whisper", "'rnnt' or 'ctc'"),
    "ASR_ATT_CTX": ("70", "two whole numbers"),
    "ASR_DEVICE": ("gpu", "cuda:N"),
    "ASR_IDLE_TIMEOUT_S": ("59", "greater than or equal to 60"),
    "ASR_MAX_STREAM_S": ("nan", "finite"),
    "ASR_LOG_FORMAT": ("xml", "'text' or 'json'"),
}


def test_settings_that_cannot_be() -> None:
    """All of them at once: a line each, that names the variable, the value and what would be right."""
    done = run(**{name: value for name, (value, _) in BAD_SETTINGS.items()})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(BAD_SETTINGS)
    for name, (value, right) in BAD_SETTINGS.items():
        (line,) = [line for line in lines if f"{name}={value}" in line]
        assert right in line


def test_option_goes_before_the_environment() -> None:
    done = run("--max-batch", "-3", ASR_MAX_BATCH=8)
    assert done.returncode == 2
    assert "--max-batch=-3" in done.stderr


def test_empty_variable_counts_as_unset() -> None:
    done = run("--decoder", "nothing", ASR_DEVICE="", ASR_THREADS="")
    assert done.stderr.count("\n") == 1
    assert "--decoder=nothing" in done.stderr


@pytest.mark.parametrize("argument", ["--no-such-option", "dance"])
def test_arguments_that_are_not(argument: str) -> None:
    assert run(argument).returncode == 2


def test_help_tells_every_setting_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from asr_service.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as done:\n    assert done.code == 0\n"
        "heavy = {'torch', 'nemo', 'grpc', 'google.protobuf', 'numpy', 'prometheus_client'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
    from asr_service.config import Settings

    for name in Settings.model_fields:
        assert f"ASR_{name.upper()}" in done.stdout
        assert f"--{name.replace('_', '-')}" in done.stdout


@pytest.mark.parametrize("which", ["ASR_GRPC_PORT", "ASR_METRICS_PORT"])
def test_port_taken(which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = {"ASR_MODEL": "null", "ASR_HOST": "127.0.0.1", "ASR_GRPC_PORT": 0, which: port}
        done = run(**settings)
    assert done.returncode == 2
    assert f"{which}={port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_model_that_is_not_there() -> None:
    done = run(ASR_MODEL="/no/such/model.nemo", ASR_HOST="127.0.0.1", ASR_GRPC_PORT=0)
    assert done.returncode == 2
    assert "/no/such/model.nemo" in done.stderr
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------------- start, health, metrics


def fetch(url: str) -> str:
    with urllib.request.urlopen(url) as page:
        return str(page.read().decode())


async def test_ready_file_log_and_metrics(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    metrics_port = free_port()
    with AsrService(
        "--ready-file", str(ready), ASR_METRICS_PORT=metrics_port, ASR_LOG_FORMAT="json", wait=False
    ) as service:
        target = service.wait_ready().rstrip('"}')
        told = json.loads(ready.read_text())
        assert told["pid"] == service.pid
        assert target == f"127.0.0.1:{told['grpc_port']}"
        async with grpc.aio.insecure_channel(target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            await transcribe(stub, speechlike(1.0))
            assert (
                await failure(stub, [config(sample_rate_hertz=1)])
            ).code() is grpc.StatusCode.INVALID_ARGUMENT
        shown = await asyncio.to_thread(fetch, f"http://127.0.0.1:{metrics_port}/metrics")
        for line in (
            "asr_streams_opened_total 1.0",
            'asr_streams_ended_total{outcome="ok"} 1.0',
            'asr_errors_total{code="invalid_argument"} 1.0',
            "asr_received_bytes_total 32000.0",
            'asr_slots{state="leased"} 0.0',
            "asr_finalize_to_final_seconds_count 1.0",
            "asr_streams_limit ",
            "asr_load 0.0",
            "asr_batch_limit 128.0",
            "process_cpu_seconds_total",
        ):
            assert line in shown
        health = await asyncio.to_thread(fetch, f"http://127.0.0.1:{metrics_port}/healthz")
        assert health == "serving\n"
        assert service.stop() == 0
        lines = [json.loads(line) for line in service.lines]
        ended = [line for line in lines if line["message"] == "stream ended"]
        assert [line["outcome"] for line in ended] == ["ok"], "who is refused admission makes no line"
        assert all(line["level"] == "info" for line in lines)
        assert ended[0]["audio_ms"] == 1000


async def test_health() -> None:
    """SERVING for the server and the service and for nothing else; who watches hears of the drain."""
    with AsrService() as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE):
                assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == SERVING
            held = await open_stream(asr_pb2_grpc.SpeechServiceStub(channel))
            service.signal()
            assert (await watch.read()).status == NOT_SERVING
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
            await held.done_writing()
            async for _ in held:
                pass
        assert service.wait() == 0


async def test_refused_while_the_model_loads() -> None:
    """From the moment it listens until the model is warm: NOT_SERVING, and streams are told when to come back."""
    port = free_port()
    with AsrService(FAULT="load", ASR_GRPC_PORT=port, wait=False) as service:
        service.wait_line("listens on 127.0.0.1")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            health = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
            error = await failure(stub, [config()])
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert retry_after_s(error) > 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetServiceInfo(pb.GetServiceInfoRequest())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        service.signal()
        assert service.wait() == 0, "told to stop while it loads, it stops"


# ----------------------------------------------------------------------------------------------------------- reflection


def buf_curl(service: AsrService, *arguments: str) -> str:
    """What `buf curl` prints, knowing nothing but the address."""
    program = Path(sys.executable).with_name("buf")
    done = subprocess.run(
        [program, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reflection_lists_and_describes(service: AsrService) -> None:
    url = f"http://{service.target}"
    listed = buf_curl(service, "--list-services", url).split()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(listed)
    asked = json.dumps({"fileContainingSymbol": SERVICE})
    reflection = f"{url}/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    told = json.loads(buf_curl(service, "--data", asked, reflection))["fileDescriptorResponse"]
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(b64decode(one)) for one in told["fileDescriptorProto"]
    ]
    (ours,) = [one for one in files if one.package == "asr.v1"]
    assert [method.name for method in ours.service[0].method] == ["Recognize", "GetServiceInfo"]
    assert {"RecognitionConfig", "RecognitionResult"} <= {message.name for message in ours.message_type}


def test_reflection_calls(service: AsrService) -> None:
    url = f"http://{service.target}/{SERVICE}"
    assert json.loads(buf_curl(service, "--data", "{}", f"{url}/GetServiceInfo"))["model"] == "null"
    exchange = '{"config":{"streamId":"curl"}} {"audio":"AAAA"} {"finalize":{"tag":"now"}}'
    answers = buf_curl(service, "--data", exchange, f"{url}/Recognize")
    assert '"finalizeTag":"now"' in answers.replace(" ", "")
    assert "FINAL_REASON_END_OF_STREAM" in answers


# ---------------------------------------------------------------------------------------------------------------- drain


async def test_drain() -> None:
    """SIGTERM: streams that are open get everything, new ones are refused, then exit 0."""
    pcm = speechlike(2.0, seed=31)
    with AsrService() as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, pcm)
            call = await open_stream(stub, pcm[:32_000])
            service.signal()
            service.wait_line("draining 1 streams")
            error = await failure(stub, [config()])
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "draining" in (error.details() or "")
            assert retry_after_s(error) > 0
            await call.write(audio(pcm[32_000:]))
            await call.write(finalize("still there"))
            await call.done_writing()
            responses = [response async for response in call]
            assert text(responses) == expected
            assert finals(responses)[0].finalize_tag == "still there"
        assert service.wait() == 0


async def test_drain_is_bounded() -> None:
    """A stream that does not end in time is told so."""
    with AsrService(ASR_DRAIN_S=0.2) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            call = await open_stream(asr_pb2_grpc.SpeechServiceStub(channel))
            service.signal()
            error = await status_of(call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert retry_after_s(error) > 0
        assert service.wait() == 0


async def test_second_signal_ends_at_once() -> None:
    with AsrService(ASR_DRAIN_S=600) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            call = await open_stream(asr_pb2_grpc.SpeechServiceStub(channel))
            service.signal(signal.SIGINT)
            service.wait_line("SIGINT: draining")
            service.signal(signal.SIGTERM)
            assert service.wait() == 128 + signal.SIGTERM
            call.cancel()


# -------------------------------------------------------------------------------------------------------------- failure


async def test_failed_step_ends_its_own_streams_only() -> None:
    """INTERNAL with a request id that the log has too, without a word of the inside; the others go on, exactly."""
    pcm = speechlike(2.0, seed=41)
    with AsrService(FAULT="raise", ASR_MAX_BATCH=1) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, pcm)
            other = await open_stream(stub, pcm[:32_000])
            call = await open_stream(stub)
            await call.write(audio(FULL_SCALE))
            error = await status_of(call)
            assert error.code() is grpc.StatusCode.INTERNAL
            request_id = details(error)["RequestInfo"].request_id  # type: ignore[attr-defined]
            assert request_id in (error.details() or "")
            assert "secret" not in (error.details() or "")
            service.wait_line(request_id)
            await other.write(audio(pcm[32_000:]))
            await other.done_writing()
            assert text([response async for response in other]) == expected
            assert await transcribe(stub, pcm) == expected
        assert service.stop() == 0


async def test_out_of_memory_makes_smaller_batches() -> None:
    """Streams of a step that did not fit get their text or INTERNAL; those that come after it get their text."""
    pcm = speechlike(2.0, seed=43)

    async def one(stub: Stub) -> str | grpc.StatusCode:
        try:
            return await transcribe(stub, pcm)
        except grpc.aio.AioRpcError as error:
            return error.code()

    with AsrService(
        FAULT="memory", ASR_MAX_STREAMS=8, ASR_MAX_BATCH=8, ASR_STEP_MS=100, ASR_MAX_LOAD=0
    ) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            expected = await transcribe(stub, pcm)
            for _ in range(5):
                ended = set(await asyncio.gather(*(one(stub) for _ in range(8))))
                assert ended <= {expected, grpc.StatusCode.INTERNAL}
                if ended == {expected} and "did not fit" in service.output:
                    break
            else:
                pytest.fail("eight streams never got their texts")
        assert service.stop() == 0


@pytest.mark.parametrize("fault", ["die", "hang"])
async def test_a_dead_or_hanging_engine_is_started_again(fault: str) -> None:
    """Every stream is told at once, and health turns until there is another engine."""
    with AsrService(FAULT=fault, ASR_WATCHDOG_S=1) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            quiet = await open_stream(stub)
            fatal = await open_stream(stub)
            await fatal.write(audio(FULL_SCALE))
            for call in (quiet, fatal):
                error = await status_of(call)
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert retry_after_s(error) > 0
            assert (await watch.read()).status == NOT_SERVING
            assert (await watch.read()).status == SERVING
            assert await transcribe(stub, speechlike(1.0))
        assert service.stop() == 0


async def test_a_front_end_whose_watcher_fails_is_started_again() -> None:
    """Its streams finish, new ones are refused until there is another."""
    with AsrService(FAULT="watch", ASR_DRAIN_S=600) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            call = await open_stream(stub)
            await call.write(audio(FULL_SCALE))
            service.wait_line("a background task has failed")
            error = await failure(stub, [config()])
            assert error.code() is grpc.StatusCode.UNAVAILABLE and "secret" not in (error.details() or "")
            assert retry_after_s(error) > 0
            await call.done_writing()
            assert text([response async for response in call])
        service.wait_line("front end 0 has ended with exit code 1")
        service.wait_line("everything runs again")
        async with grpc.aio.insecure_channel(service.target) as channel:
            assert await transcribe(asr_pb2_grpc.SpeechServiceStub(channel), speechlike(1.0))
        assert service.stop() == 0


# --------------------------------------------------------------------------------------------------------------- limits


async def test_longest_stream() -> None:
    with AsrService(ASR_MAX_STREAM_S=0.3) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            error = await status_of(await open_stream(asr_pb2_grpc.SpeechServiceStub(channel)))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "0.3 s" in (error.details() or "")
            assert details(error)["ErrorInfo"].reason == "LIMIT_REACHED"  # type: ignore[attr-defined]


async def test_idle_stream() -> None:
    """Silence on the wire ends a stream, also before its config; keep_alive and the wait for the last final do not."""
    with AsrService(IDLE_TIMEOUT_S=4) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            alive = await open_stream(stub)

            async def keep_alive() -> None:
                while True:
                    await alive.write(pb.RecognizeRequest(keep_alive=pb.KeepAlive()))
                    await asyncio.sleep(0.1)  # far below the time after which silence would end it

            keeping = asyncio.create_task(keep_alive())
            idle, wordless = await open_stream(stub), stub.Recognize()
            for call in (idle, wordless):
                error = await status_of(call)
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                assert "keep_alive" in (error.details() or "")
            keeping.cancel()
            await alive.done_writing()
            assert len([response async for response in alive]) == 1

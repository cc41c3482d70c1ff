"""Traces: what a real collector is sent by a real service, and what it must never be sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import grpc.aio
import pytest
from asr.v1 import asr_pb2_grpc

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra otel is not installed: make setup")

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from testbed.processes import free_port
from tests.support.audio import cut, speechlike
from tests.support.bridge import CLOSE, Bridge, talk
from tests.support.collector import Collector, facts
from tests.support.process import AsrService, printed, run_python
from tests.support.rpc import Stub, audio, config, finalize, finals

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def service(collector: Collector) -> Iterator[AsrService]:
    with AsrService(
        FAULT="raise", ASR_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY=50, ASR_MAX_STREAMS=1
    ) as process:
        yield process


@pytest.fixture
async def stub(service: AsrService) -> Any:
    async with grpc.aio.insecure_channel(service.target) as channel:
        yield asr_pb2_grpc.SpeechServiceStub(channel)


async def test_a_stream_is_a_span_of_its_client_s_trace(stub: Stub, collector: Collector) -> None:
    pcm = speechlike(2.0, seed=3)
    requests = [config(stream_id="traced", encoding=1), *map(audio, cut(pcm, 640)), finalize()]
    requests += map(audio, cut(pcm, 640))
    call = stub.Recognize(iter(requests), metadata=(("traceparent", SAMPLED), ("tracestate", "vendor=1")))
    responses = [response async for response in call]
    span = await collector.span("traced")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert (span.name, span.kind) == ("asr.v1.SpeechService/Recognize", Span.SPAN_KIND_SERVER)
    said = facts(span.attributes)
    assert said["asr.encoding"] == "linear16"
    assert (said["asr.model"], said["asr.look_ahead_ms"]) == ("null", 80)
    assert said["asr.sample_rate_hertz"] == 16_000
    assert said["asr.finals"] == len(finals(responses)) == 2
    assert said["asr.interims"] == len(responses) - 2
    assert said["asr.audio_seconds"] == responses[-1].audio_processed_ms / 1000 == 4.0
    assert said["asr.received_bytes"] == 2 * len(pcm)
    assert (said["asr.outcome"], said["rpc.grpc.status_code"]) == ("ok", 0)
    names = [event.name for event in span.events]
    assert names[0] == "first interim" and names.count("final") == 2
    reasons = [facts(event.attributes).get("asr.reason") for event in span.events if event.name == "final"]
    assert reasons == ["finalize", "end_of_stream"]
    (admission,) = collector.children(span)
    assert (admission.name, facts(admission.attributes)) == ("admission", {"asr.admission": "admitted"})
    assert span.start_time_unix_nano <= admission.start_time_unix_nano
    assert admission.end_time_unix_nano <= span.end_time_unix_nano
    assert collector.resources[0]["service.name"] == "asr_service"
    for final in finals(responses):
        words = [word.encode() for word in {final.text, *final.text.split()} if len(word) > 2]
        assert words and not any(word in body for word in words for body in collector.bodies)


async def test_spans_of_riva_s_calls_have_their_names(service: AsrService, collector: Collector) -> None:
    pytest.importorskip("riva.client.proto", reason="nvidia-riva-client is not installed: make setup")
    from tests.support import riva

    pcm = speechlike(0.5)
    async with grpc.aio.insecure_channel(service.target) as channel:
        stub = riva.stub_on(channel)
        for name in ("StreamingRecognize", "Recognize"):
            opening = riva.opening()
            opening.id.value = name
            if name == "Recognize":
                request = riva.rasr.RecognizeRequest(
                    config=opening.streaming_config.config, audio=pcm, id=opening.id
                )
                await stub.Recognize(request)
            else:
                await riva.talk(stub, [opening, *riva.packets(pcm)])
            span = await collector.span(name)
            assert span.name == f"nvidia.riva.asr.RivaSpeechRecognition/{name}"


async def test_the_bridge_passes_the_trace_on(service: AsrService, collector: Collector) -> None:
    with Bridge(service.target) as bridge:
        init = json.dumps({"op": "init", "sid": "bridged", "sr": 16_000})
        headers = {"traceparent": SAMPLED, "tracestate": "vendor=1"}
        heard = await talk(
            bridge, [init, speechlike(0.5), CLOSE.replace("call-17", "bridged")], additional_headers=headers
        )
    assert heard.code == 1000
    span = await collector.span("bridged")
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, "vendor=1")


async def test_what_is_refused_and_what_fails(stub: Stub, collector: Collector, service: AsrService) -> None:
    holder = stub.Recognize()
    await holder.write(config(stream_id="holder"))
    await holder.initial_metadata()
    with pytest.raises(grpc.aio.AioRpcError):
        async for _ in stub.Recognize(iter([config(stream_id="unlucky")])):
            pass
    refused = await collector.refused()
    assert facts(refused.attributes)["error.type"] == "RESOURCE_EXHAUSTED"
    assert refused.status.code == Status.STATUS_CODE_UNSET, "a full service is no error of a span"
    assert [facts(child.attributes) for child in collector.children(refused)] == [
        {"asr.admission": "refused"}
    ]

    await holder.write(audio(b"\xff\x7f" * 16_000))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in holder:
            pass
    failed = await collector.span("holder")
    said = facts(failed.attributes)
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert said["error.type"] == "INTERNAL"
    assert said["asr.request_id"] in (caught.value.details() or "")
    trace = await asyncio.to_thread(service.wait_line, r"stream=holder .*trace=(\w+)")
    assert trace[1] == failed.trace_id.hex(), "the log leads to the trace"


async def test_a_trace_that_is_not_sampled_is_not_sent(stub: Stub, collector: Collector) -> None:
    unsampled = SAMPLED.removesuffix("01") + "00"
    async for _ in stub.Recognize(iter([config(stream_id="unseen")]), metadata=(("traceparent", unsampled),)):
        pass
    nonsense = (("traceparent", "00-nonsense"), ("traceparent", "\x7f" * 2000))
    async for _ in stub.Recognize(iter([config(stream_id="seen")]), metadata=nonsense[:1]):
        pass
    span = await collector.span("seen")
    assert not span.parent_span_id
    assert not [one for one in collector.spans if facts(one.attributes).get("asr.stream_id") == "unseen"]


async def test_a_collector_that_is_gone_is_felt_by_nobody() -> None:
    with AsrService(
        ASR_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}", OTEL_BSP_SCHEDULE_DELAY=50
    ) as service:
        async with grpc.aio.insecure_channel(service.target) as channel:
            stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
            responses = [
                response async for response in stub.Recognize(iter([config(), audio(speechlike(1.0))]))
            ]
        assert finals(responses)
        assert service.stop() == 0


def test_nothing_of_it_is_imported_unless_asked_for() -> None:
    program = (
        "import sys, asr_service.app.front_end; print([name for name in sys.modules if 'telemetry' in name])"
    )
    assert printed("-c", program) == "[]"


def test_an_endpoint_that_is_no_url() -> None:
    done = run_python("-m", "asr_service", "--otlp-endpoint", "localhost:4318")
    assert done.returncode == 2
    assert "--otlp-endpoint=localhost:4318: should be a URL such as http://localhost:4318" in done.stderr

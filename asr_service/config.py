"""Settings of the service: read once, validated once, frozen. The only reader of the environment.

Each setting is a field; its description states what is traded. `python -m asr_service --help` and the table in
docs/settings.md are made from them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from asr_common import settings as common
from asr_common.settings import CONFIG, BadSettings
from asr_service.core.errors import SettingsError
from asr_service.core.model_settings import ModelSettings, parse_att_contexts, split_list


def _setting(group: str, default: Any, description: str, *, shown: str = "", **limits: Any) -> Any:
    """A field with its help; `shown` is the default in words where the value itself says little."""
    return Field(
        default, description=description, json_schema_extra={"group": group, "shown": shown}, **limits
    )


class Settings(BaseSettings):
    """The service's settings, from `ASR_*` variables unless given by name."""

    model_config = CONFIG

    model: str = _setting(
        "Model",
        "nvidia/stt_en_fastconformer_hybrid_large_streaming_multi",
        "A hub name (owner/name, or owner/name@revision to pin one), a path to a .nemo file or to the folder of an "
        "unpacked one, 'demo' (the small bundled model), or 'null' (no recognition: for measuring transport and for "
        "testing clients). Larger models know more words and take longer per step. Several, with semicolons between, "
        "are all served; the first is what a stream gets that asks for none.",
        min_length=1,
    )
    att_ctx: str | None = _setting(
        "Model",
        None,
        "Attention context in encoder frames, left,right: one of the pairs the model offers. More on the right "
        "(70,6: 480 ms, 70,13: 1040 ms of look-ahead) gives fewer errors and serves more streams; less (70,0) gives "
        "earlier words. Several, with semicolons between, are all served, each with state and batches of its own; the "
        "first is what a stream gets that asks for none.",
        shown="70,1 where the model has it, else its first pair",
    )
    decoder: Literal["rnnt", "ctc"] | None = _setting(
        "Model",
        None,
        "For models that have both: rnnt makes fewer errors; ctc takes less time per step and so serves more streams.",
        shown="rnnt where the model has it, else ctc",
    )
    languages: Annotated[tuple[str, ...], NoDecode] = _setting(
        "Model",
        (),
        "Languages to offer, BCP-47 codes with commas between: for a model whose file does not say which it "
        "recognizes, or to offer fewer than it has prompts for. It holds for every model.",
        shown="those that the model says",
    )
    device: str | None = _setting(
        "Model",
        None,
        "Where the model runs: cuda:N or cpu. Several, with commas between (cuda:0,cuda:1), share the streams. A "
        "device that is set and absent is an error.",
        shown="cuda:0 if there is one, else cpu",
    )
    engines: int = _setting(
        "Model",
        1,
        "Engines for each cpu of ASR_DEVICE, which share the cores between them. More suit many cores, where a further "
        "thread makes a step little shorter; fewer make fuller batches. Each holds the model's weights once more.",
        ge=1,
        le=256,
    )
    precision: Literal["fp32", "tf32", "bf16"] = _setting(
        "Model",
        "fp32",
        "bf16 is faster where the hardware has it; texts may then differ from fp32 in rare words. tf32, for NVIDIA "
        "GPUs, is between the two.",
    )
    encoder: Literal["fast", "torch", "nemo"] = _setting(
        "Model",
        "fast",
        "fast keeps keys and values between steps instead of computing them again, in kernels of its own; torch does "
        "so in torch's operations alone, should a GPU's kernels fail; nemo runs NeMo's own step, slower, to compare "
        "with.",
    )
    threads: int | None = _setting(
        "Model",
        None,
        "Threads of one model step on a CPU. Fewer leave more for the network; more make a step shorter as long as "
        "each has a CPU. The default counts the cores that the service may run on, at most the whole CPUs of its "
        "container's quota. It is of each engine: where several share the cores, the default counts the share of one.",
        shown="one for each CPU that it may use",
        ge=1,
        le=1024,
    )

    finalize_silence_ms: int | None = _setting(
        "Model",
        None,
        "Digital silence, in ms, that follows the audio where a final is asked for, by finalize or by the end of a "
        "stream or an upload, so that a word which ends right there is heard to its end, and the mark after it. Unset, "
        "it suits the model: 80, or two chunks (320 at 70,1) for one that writes punctuation. More costs further "
        "steps; with 0 the text is the model's for that audio alone, as its reference has it.",
        shown="by the model",
        ge=0,
        le=5000,
    )

    step_ms: float = _setting(
        "Batching",
        20.0,
        "Ready streams are gathered for at most this many ms before a step. Longer makes fuller batches (more streams "
        "per machine), shorter makes earlier words; 0 steps as soon as one stream is ready.",
        ge=0,
        le=1000,
    )
    max_batch: int = _setting(
        "Batching",
        128,
        "Most streams in one step. Larger serves more streams per second, and each step lasts longer.",
        ge=1,
        le=4096,
    )
    max_streams: int | None = _setting(
        "Batching",
        None,
        "Streams open at the same time; more are refused with RESOURCE_EXHAUSTED and a time to come back. Each has a "
        "slot of model state, which takes its memory at the start on a GPU and when first used on a CPU. Unset, the "
        "service measures, for a moment at the start and while it serves, what the machine holds in real time; it "
        "makes 512 slots at most on a CPU, 8192 on a GPU, fewer where memory is short. Beyond what it holds "
        "everybody's words come late; nor does a front end take more than its packets leave time for. Each engine "
        "has so many.",
        shown="what the machine sustains",
        ge=1,
        le=65536,
    )
    max_load: float = _setting(
        "Batching",
        1.0,
        "New streams are refused while, at the 95th percentile of the last ten seconds, the results of live audio take "
        "longer than this share of the audio they cover. Lower keeps more in reserve; 0 admits as long as there are "
        "slots.",
        ge=0,
        le=100,
    )

    host: str = _setting(
        "Network", "0.0.0.0", "Address to listen on. 127.0.0.1 admits this machine only.", min_length=1
    )
    grpc_port: int = _setting(
        "Network", 50051, "Port of the gRPC service; 0 takes a free one.", ge=0, le=65535
    )
    front_ends: int | None = _setting(
        "Network",
        None,
        "Processes that share the gRPC port, each with a part of the connections. More carry more packets, as long as "
        "each has a core besides those of the engines. On Linux; elsewhere there is one.",
        shown="one for each core that the engines leave, 1 to 8",
        ge=1,
        le=256,
    )
    max_message_bytes: int = _setting(
        "Network",
        4 * 1024 * 1024,
        "Largest request accepted. Larger ones upload files in fewer calls and let one client claim more memory.",
        ge=65536,
        le=1 << 30,
    )
    metrics_port: int = _setting(
        "Network",
        0,
        "Port of the Prometheus metrics; 0 turns them off.",
        shown="0 (off)",
        ge=0,
        le=65535,
    )
    metrics_host: str = _setting(
        "Network",
        "127.0.0.1",
        "Address the metrics listen on. They tell how busy the service is: keep them inside.",
    )

    tls_cert: Path | None = _setting(
        "Access",
        None,
        "PEM file of the gRPC port's certificate, with its chain. Set with ASR_TLS_KEY, the port speaks TLS only. Read "
        "again when it changes.",
        shown="none (no TLS)",
    )
    tls_key: Path | None = _setting(
        "Access", None, "PEM file of that certificate's private key, without a password.", shown="none"
    )
    tls_client_ca: Path | None = _setting(
        "Access",
        None,
        "PEM file of authorities: clients then have to show a certificate of one of them (mutual TLS).",
        shown="none (clients need no certificate)",
    )
    api_keys_file: Path | None = _setting(
        "Access",
        None,
        "File of API keys, a name:hash[:max_streams] a line, made by `python -m asr_service keys new NAME`. Set, every "
        "call but health needs `authorization: Bearer KEY`. Read again when it changes.",
        shown="none (no keys)",
    )

    max_connections: int = _setting(
        "Limits",
        1000,
        "Connections to the gRPC port at the same time, for each front end; more are closed as they come. Each costs "
        "memory and a file descriptor, and one connection carries many streams. Keep it below the process's limit of "
        "open files.",
        ge=1,
        le=1_000_000,
    )
    max_unread: int = _setting(
        "Limits",
        1000,
        "Finals that may wait for a client that does not read; one more ends its stream with RESOURCE_EXHAUSTED. "
        "Interims never queue: a slow reader gets the latest. More forgives longer pauses and costs memory.",
        ge=1,
        le=1_000_000,
    )
    inbox_s: float = _setting(
        "Limits",
        30.0,
        "Seconds of audio a stream may have waiting for the model. A client that sends faster is made to wait. More "
        "absorbs longer bursts and lets one stream hold more memory.",
        ge=1,
        le=3600,
    )
    idle_timeout_s: float = _setting(
        "Limits",
        300.0,
        "A stream that sends neither audio nor keep_alive for so long is ended, and its slot is free again. Shorter "
        "frees abandoned slots sooner; longer allows longer pauses without a keep_alive.",
        ge=60,
        le=86400,
    )
    max_stream_s: float = _setting(
        "Limits",
        0.0,
        "Longest stream in seconds of wall-clock time. A stream that is given finals now and then takes no more memory "
        "with time, so that none is needed for that; it frees slots that a client forgot.",
        shown="0 (no limit)",
        ge=0,
    )
    drain_s: float = _setting(
        "Limits",
        30.0,
        "After SIGTERM, how long admitted streams may go on before they are ended, which takes 2 s more at most. Keep "
        "it below the grace period of whatever stops the process.",
        ge=0,
        le=86400,
    )
    watchdog_s: float = _setting(
        "Limits",
        30.0,
        "A process that gives no sign of life for so long, as in a step that does not end, is taken for hung: it shows "
        "its threads in the log, is killed and started again; its streams end with UNAVAILABLE. Longer than the "
        "slowest honest step.",
        ge=1,
        le=3600,
    )

    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "Output", "info", "Least severity that is logged. Neither audio nor text is ever logged."
    )
    log_format: Literal["text", "json"] = _setting(
        "Output", "text", "text for people, json (one object a line) for collectors."
    )
    otlp_endpoint: str = _setting(
        "Output",
        "",
        "Base URL of an OpenTelemetry collector that takes OTLP over HTTP, such as http://localhost:4318: each stream "
        "is then a span, without audio and text, and costs some 0.1 ms. Needs the extra otel. OpenTelemetry's own "
        "variables (OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS) hold as well.",
        shown="none (no traces)",
    )
    ready_file: Path | None = _setting(
        "Output",
        None,
        "File that is written once the service is SERVING: JSON with pid, host, grpc_port and metrics_port. For "
        "scripts that start the service on a free port.",
        shown="none",
    )

    @field_validator("model")
    @classmethod
    def _models(cls, value: str) -> str:
        names = split_list(value, ";")
        if not names:
            raise ValueError("should name a model")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"should name each model once; {name} is there twice")
        return value

    @field_validator("att_ctx")
    @classmethod
    def _att_contexts(cls, value: str | None) -> str | None:
        if value is not None:
            parse_att_contexts(value)
        return value

    @field_validator("languages", mode="before")
    @classmethod
    def _codes(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        codes = tuple(code.strip() for code in value.split(",") if code.strip())
        if not all(re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", code) for code in codes):
            raise ValueError("should be language codes such as en-US,de-DE")
        return codes

    @field_validator("otlp_endpoint")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
            raise ValueError("should be a URL such as http://localhost:4318")
        return value

    @field_validator("device")
    @classmethod
    def _devices(cls, value: str | None) -> str | None:
        if value is None:
            return None
        devices = split_list(value, ",")
        if not devices or not all(re.fullmatch(r"cpu|cuda(:\d+)?", device) for device in devices):
            raise ValueError("should be cpu, cuda or cuda:N, such as cuda:0, or several with commas between")
        return value

    @field_validator("log_level", "log_format", "decoder", "precision", "encoder", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, the default one first."""
        return split_list(self.model, ";")

    @property
    def att_contexts(self) -> tuple[tuple[int, int], ...]:
        """Attention contexts that each model is served with, the default one first; empty for the model's choice."""
        return parse_att_contexts(self.att_ctx) if self.att_ctx is not None else ()

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that each model is served on; empty for the first GPU if there is one and the CPU otherwise."""
        return split_list(self.device or "", ",")

    @property
    def model_settings(self) -> ModelSettings:
        """What of the settings says how the first model is made, with the first look-ahead and on the first device."""
        return ModelSettings(
            name=self.models[0],
            att_context=next(iter(self.att_contexts), None),
            decoder=self.decoder,
            device=next(iter(self.devices), None),
            precision=self.precision,
            encoder=self.encoder,
            slots=self.max_streams,
            threads=self.threads,
            languages=self.languages,
        )


def read_settings(options: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment; `options` (by field name) go before it.

    Raises:
        SettingsError: with one line for each value that cannot be, naming its variable and what would be right.
    """
    try:
        return common.read_settings(Settings, options or {})
    except BadSettings as error:
        raise SettingsError(str(error), field=error.field) from None


def lighten_grpc() -> None:
    """Tells grpc, which must not be imported yet, to read sockets from its one poller instead of a pool of threads.

    Handing packets from thread to thread is a fifth of what a small packet costs. The switch belongs to one release of
    grpc: others keep their default, as does an operator who sets GRPC_EXPERIMENTS.
    """
    if version("grpcio").startswith("1.85."):
        os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

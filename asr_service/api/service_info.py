"""What `GetServiceInfo` answers: what is served, by model and look-ahead. Pure; no grpc here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asr.v1 import asr_pb2 as pb

from asr_service.api import limits
from asr_service.api.messages import CODINGS, ENCODINGS
from asr_service.core.errors import InvalidArgument
from asr_service.core.model import ModelInfo
from asr_service.recognition.codecs.contract import is_pyav_installed
from asr_service.recognition.languages import AUTO, choose_language
from asr_service.sessions.routes import Room, Route, Routes


def service_info(
    routes: Routes,
    room: Callable[[int], Room],
    *,
    version: str,
    max_streams: int,
    active_streams: int,
    max_message_bytes: int,
    measured_streams: int,
    load: float,
) -> pb.GetServiceInfoResponse:
    """What is served.

    Args:
        routes: all of it.
        room: tells how much an engine has, by its number.
        version, max_streams, active_streams, max_message_bytes, measured_streams, load: as in the message.
    """
    info = routes.all[0].info
    return pb.GetServiceInfoResponse(
        model=routes.all[0].model,
        version=version,
        decoder=info.decoder,
        att_context=info.att_context,
        look_ahead_ms=round(info.look_ahead_ms),
        chunk_ms=round(info.chunk_ms),
        languages=info.languages,
        encodings=[
            value
            for value in (*ENCODINGS, *(CODINGS if is_pyav_installed() else ()))
            if value != pb.AUDIO_ENCODING_UNSPECIFIED
        ],
        min_sample_rate_hertz=limits.MIN_RATE_HZ,
        max_sample_rate_hertz=limits.MAX_RATE_HZ,
        model_sample_rate_hertz=info.sample_rate,
        max_streams=max_streams,
        active_streams=active_streams,
        max_message_bytes=max_message_bytes,
        device=info.device,
        precision=info.precision,
        measured_streams=measured_streams,
        load=load,
        takes_language=bool(info.prompts),
        default_language_code=_default_language(info),
        served=[_served_model(route, [room(engine) for engine in route.engines]) for route in routes.all],
    )


def _served_model(route: Route, rooms: Sequence[Room]) -> pb.ServedModel:
    info = route.info
    return pb.ServedModel(
        name=route.model,
        look_ahead_ms=route.look_ahead_ms,
        att_context=info.att_context,
        chunk_ms=round(info.chunk_ms),
        languages=info.languages,
        takes_language=bool(info.prompts),
        default_language_code=_default_language(info),
        decoder=info.decoder,
        precision=info.precision,
        devices=route.devices,
        max_streams=sum(room.limit for room in rooms),
        active_streams=sum(room.leased for room in rooms),
        steps=[room.steps for room in rooms],
    )


def _default_language(info: ModelInfo) -> str:
    """The language of a stream that names none; "" if the model takes none, or has to be told."""
    try:
        return choose_language("", info) or (AUTO if info.prompts else "")
    except InvalidArgument:
        return ""

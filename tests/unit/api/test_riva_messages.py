"""Which model a client of Riva gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("riva.client", reason="the package nvidia-riva-client is not installed")

import riva.client.proto.riva_asr_pb2 as pb

from asr_service.api.riva import messages
from asr_service.core.errors import InvalidArgument
from asr_service.core.values import StreamConfig
from asr_service.model.null import NullModel
from asr_service.sessions.routes import Routes
from tests.support.routes import serving

ENGLISH = replace(NullModel(slots=1).info, name="a/english", languages=("en-US",))
FAR = replace(NullModel(slots=1, att_context=(70, 13)).info, name="a/english", languages=("en-US",))
GERMAN = replace(
    NullModel(slots=1, att_context=(70, 6)).info, name="/models/Deutsch.nemo", languages=("de-DE",)
)
ONE, TWO = serving(ENGLISH, FAR), serving(ENGLISH, FAR, GERMAN)


def read(routes: Routes | None, **fields: str) -> StreamConfig:
    message = pb.StreamingRecognitionConfig(config=pb.RecognitionConfig(**fields))
    requested = messages.read_config(message, endpoints=True, routes=routes)
    return requested.stream_config("call", requested.format, routes)


@pytest.mark.parametrize(
    ("routes", "fields", "model", "look_ahead_ms"),
    [
        # Clients send the names of NVIDIA's models: where one is served, it is the one.
        (ONE, {"model": "parakeet-1.1b-en-US-asr-streaming"}, "a/english", 80),
        (ONE, {}, "a/english", 80),
        (TWO, {}, "a/english", 80),
        (TWO, {"model": "deutsch"}, "/models/Deutsch.nemo", 480),
        (TWO, {"model": "english", "language_code": "en-US"}, "a/english", 80),
        (TWO, {"language_code": "de-DE"}, "/models/Deutsch.nemo", 480),
        (TWO, {"language_code": "multi"}, "a/english", 80),
        (None, {"model": "deutsch"}, "", None),
    ],
)
def test_the_model_chooses_where_several_are_served(
    routes: Routes | None, fields: dict[str, str], model: str, look_ahead_ms: int | None
) -> None:
    config = read(routes, **fields)
    assert (config.model, config.look_ahead_ms) == (model, look_ahead_ms)


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"model": "parakeet-1.1b"}, "model", "it should be a/english or /models/Deutsch.nemo"),
        ({"language_code": "fr-FR"}, "language_code", "/models/Deutsch.nemo has de-DE"),
        ({"model": "english", "language_code": "de-DE"}, "language_code", "must be en-US"),
    ],
)
def test_what_nobody_serves_is_refused(fields: dict[str, str], field: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(TWO, **fields)
    assert caught.value.field == f"config.{field}"
    assert says in caught.value.message


def test_what_is_served_is_told_with_the_look_ahead_that_clients_get() -> None:
    told = [
        (
            one.model_name,
            one.parameters["type"],
            one.parameters["look_ahead"],
            one.parameters["language_code"],
        )
        for one in messages.service_config(TWO, "").model_config
    ]
    assert told == [
        ("a/english", "online", "0.08", "en-US"),
        ("a/english", "offline", "0.08", "en-US"),
        ("/models/Deutsch.nemo", "online", "0.48", "de-DE"),
        ("/models/Deutsch.nemo", "offline", "0.48", "de-DE"),
    ]
    german = messages.service_config(TWO, "/models/Deutsch.nemo").model_config
    assert [one.model_name for one in german] == ["/models/Deutsch.nemo"] * 2
    assert not messages.service_config(TWO, "another").model_config

"""Which engines a stream may use, by what its client asks for and what is served."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.errors import InvalidArgument
from asr_service.core.model import ModelInfo
from asr_service.model.null import ATT_CONTEXTS, NullModel
from asr_service.sessions.routes import Room, Route, Routes, Served, Wanted, by_room

ENGLISH = "nvidia/stt_en_streaming"
GERMAN = "/models/Deutsch.nemo"
MANY = "nvidia/many@main"
PLAIN = {context: NullModel(slots=1, att_context=context).info for context in ATT_CONTEXTS}
INFO = {
    ENGLISH: {"languages": ("en",)},
    GERMAN: {"languages": ("de-DE",)},
    MANY: {
        "prompts": (("en-US", 0), ("de-DE", 1), ("fr-FR", 2), ("auto", 9)),
        "languages": ("en-US", "de-DE"),
    },
}


def info(model: str, context: tuple[int, int] = (70, 1)) -> ModelInfo:
    return replace(PLAIN[context], name=model, **INFO.get(model, {}))  # type: ignore[arg-type]


def serving(*engines: tuple[str, tuple[int, int]] | str) -> Routes:
    """Engines of these models, with a look-ahead of 80 ms unless they say another."""
    each = [(engine, (70, 1)) if isinstance(engine, str) else engine for engine in engines]
    return Routes(Served(number, model, info(model, context)) for number, (model, context) in enumerate(each))


def refusal(routes: Routes, wanted: Wanted) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        routes.find(wanted, "config.")
    assert caught.value.message == f"{caught.value.field} {caught.value.problem}"
    return caught.value


EVERYTHING = serving(
    (ENGLISH, (70, 1)), (ENGLISH, (70, 1)), (ENGLISH, (70, 13)),
    (GERMAN, (70, 6)), (GERMAN, (70, 0)),
    (MANY, (70, 1)), (MANY, (70, 13)), (MANY, (70, 1)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "engines"),
    [
        (Wanted(), (0, 1)),
        (Wanted(look_ahead_ms=80), (0, 1)),
        (Wanted(look_ahead_ms=1040), (2,)),
        (Wanted(language="en-GB"), (0, 1)),
        (Wanted(language="auto"), (0, 1)),
        # What the first does not have: the first other one that lists it, with its own look-aheads.
        (Wanted(language="de"), (3,)),
        (Wanted(language="de", look_ahead_ms=0), (4,)),
        (Wanted(language="fr"), (5, 7)),
        # A model that is named stays, whatever others have.
        (Wanted(ENGLISH), (0, 1)),
        (Wanted(GERMAN), (3,)),
        (Wanted(MANY, "de", 1040), (6,)),
        (Wanted("stt_en_streaming"), (0, 1)),
        (Wanted("NVIDIA/STT_EN_Streaming"), (0, 1)),
        (Wanted("Deutsch.nemo"), (3,)),
        (Wanted("deutsch"), (3,)),
        (Wanted("nvidia/many"), (5, 7)),
        (Wanted("many"), (5, 7)),
        (Wanted("Many@Main"), (5, 7)),
    ],
)
def test_a_stream_gets_what_it_asks_for(wanted: Wanted, engines: tuple[int, ...]) -> None:
    assert EVERYTHING.find(wanted).engines == engines


@pytest.mark.parametrize(
    ("wanted", "field", "says"),
    [
        (Wanted("many-more"), "model", f"'many-more', which is not served; it should be {ENGLISH}, {GERMAN} or {MANY}"),
        (Wanted("main"), "model", "not served"),
        (Wanted("Deut\nsch" * 20), "model", "'Deut\\nschDeut"),
        (Wanted(language="tlh"), "language_code", f"must be en, not 'tlh'; this is about the model {ENGLISH}"),
        (Wanted(language="tlh"), "language_code", f"; {GERMAN} has de-DE; {MANY} has en-US"),
        (Wanted(ENGLISH, "de"), "language_code", f"{MANY} has en-US, de-DE, fr-FR and auto"),
        (Wanted(GERMAN, "en"), "language_code", "must be de-DE, not 'en'"),
        (Wanted(look_ahead_ms=480), "look_ahead_ms", f"is 480; it should be 80 or 1040 with the model {ENGLISH}"),
        (Wanted(look_ahead_ms=480), "look_ahead_ms", f"{GERMAN} has 480 and 0; {MANY} has 80 and 1040"),
        (Wanted("many", look_ahead_ms=0), "look_ahead_ms", f"80 or 1040 with the model {MANY}"),
        (Wanted(language="de", look_ahead_ms=80), "look_ahead_ms", f"480 or 0 with the model {GERMAN}"),
    ],
)  # fmt: skip
def test_what_nobody_serves_is_told_what_there_is(wanted: Wanted, field: str, says: str) -> None:
    error = refusal(EVERYTHING, wanted)
    assert error.field == f"config.{field}"
    assert says in error.message
    assert len(error.message) < 500 and error.message.isprintable()


def test_where_one_thing_is_served_it_is_told_without_its_name() -> None:
    only = serving(ENGLISH)
    assert refusal(only, Wanted("x")).message == (
        f"config.model is 'x', which is not served; it should be {ENGLISH}, or unset"
    )
    assert refusal(only, Wanted(language="de")).message == "config.language_code must be en, not 'de'"
    assert refusal(only, Wanted(look_ahead_ms=81)).message == (
        "config.look_ahead_ms is 81; it should be 80, or unset"
    )


def test_a_short_name_leaves_no_choice() -> None:
    routes = serving("a/model", "b/Model", "/c/MODEL.nemo", "A/other")
    assert routes.find(Wanted("B/model")).model == "b/Model"
    assert routes.find(Wanted("model.nemo")).model == "/c/MODEL.nemo"
    error = refusal(routes, Wanted("model"))
    assert error.field == "config.model"
    assert "short for a/model, b/Model and /c/MODEL.nemo" in error.message
    # One that is written as it was set is meant, whatever others are called.
    assert serving("a/demo", "demo").find(Wanted("demo")).model == "demo"
    assert serving("demo", "DEMO").find(Wanted("DEMO")).engines == (1,)


def test_languages_that_are_not_known_are_no_reason_to_change_models() -> None:
    """A model of unknown languages takes any as long as it is the first, and none away from one that lists it."""
    assert serving("unknown", GERMAN).find(Wanted(language="de")).model == "unknown"
    assert serving(ENGLISH, "unknown", GERMAN).find(Wanted(language="de")).model == GERMAN
    assert refusal(serving(ENGLISH, "unknown"), Wanted(language="de")).field == "config.language_code"


def test_engines_are_alike_only_with_the_same_history() -> None:
    """Two look-aheads of one name are two things; the first is meant."""
    routes = Routes(
        Served(number, "m", replace(PLAIN[(70, 1)], att_context=context, device=device))
        for number, (context, device) in enumerate(
            [((70, 1), "cuda:0"), ((56, 1), "cuda:0"), ((70, 1), "cuda:1")]
        )
    )
    assert routes.find(Wanted()).engines == routes.find(Wanted(look_ahead_ms=80)).engines == (0, 2)
    assert [route.engines for route in routes.all] == [(0, 2), (1,)]


MODELS = st.lists(st.sampled_from([ENGLISH, GERMAN, MANY, "unknown"]), min_size=1, unique=True)
CONTEXTS = st.lists(st.sampled_from(ATT_CONTEXTS), min_size=1, unique=True)
LANGUAGES = st.sampled_from(["", "auto", "multi", "en", "en-US", "de", "de-AT", "fr-FR", "tlh"])


@given(
    MODELS,
    CONTEXTS,
    st.integers(1, 3),
    st.sampled_from(["", ENGLISH, "deutsch", "MANY", "Unknown", "none"]),
    LANGUAGES,
    st.sampled_from([None, 0, 80, 480, 1040, 100]),
)
def test_whatever_is_served_and_wanted(
    models: list[str],
    contexts: list[tuple[int, int]],
    devices: int,
    model: str,
    language: str,
    look_ahead_ms: int | None,
) -> None:
    served = [
        Served(number, name, info(name, context))
        for number, (name, context) in enumerate(
            (name, context) for name in models for context in contexts for _ in range(devices)
        )
    ]
    routes = Routes(served)
    assert sorted(number for route in routes.all for number in route.engines) == list(range(len(served)))
    assert routes.models == tuple(models)
    refused: InvalidArgument | None = None
    try:
        route = routes.find(Wanted(model, language, look_ahead_ms))
    except InvalidArgument as error:
        refused = error
    if refused is not None:
        assert refused.field in ("model", "language_code", "look_ahead_ms")
        wrong = {"model": model, "language_code": language, "look_ahead_ms": look_ahead_ms}[refused.field]
        assert wrong not in ("", None)
        assert any(name in refused.message for name in models) or len(models) == 1
        return
    chosen = [served[number] for number in route.engines]
    assert len(chosen) == devices and list(route.engines) == sorted(route.engines)
    assert {one.model for one in chosen} == {route.model}
    assert {one.info for one in chosen} == {route.info}
    assert look_ahead_ms in (None, route.look_ahead_ms)
    assert look_ahead_ms is not None or route.info.att_context == contexts[0]
    if model == "" and language in ("", "auto", "multi"):
        assert route.model == models[0]
    # What was found is found again by its own name, which is how a config carries it.
    assert routes.find(Wanted(route.model, language, route.look_ahead_ms)) == route


ROOMS = st.lists(
    st.builds(Room, st.integers(0, 20), st.integers(0, 20), st.floats(0, 3)), min_size=1, max_size=8
)


@given(ROOMS)
def test_the_engine_with_most_room_comes_first_and_full_ones_last(rooms: list[Room]) -> None:
    order = by_room(range(len(rooms)), rooms.__getitem__)
    assert sorted(order) == list(range(len(rooms)))
    full = [rooms[engine].is_full for engine in order]
    assert full == sorted(full)


@given(ROOMS, st.data())
def test_more_work_moves_no_engine_forward(rooms: list[Room], data: st.DataObject) -> None:
    engines = range(len(rooms))
    one = data.draw(st.sampled_from(engines))
    busier = list(rooms)
    busier[one] = replace(
        rooms[one],
        leased=rooms[one].leased + data.draw(st.integers(0, 20)),
        load=rooms[one].load + data.draw(st.floats(0, 3)),
    )
    before, after = by_room(engines, rooms.__getitem__), by_room(engines, busier.__getitem__)
    assert after.index(one) >= before.index(one)
    assert [other for other in after if other != one] == [other for other in before if other != one]


def test_engines_of_different_size_fill_alike() -> None:
    """A stream at a time, before any load is measured: each has its share of its limit."""
    limits, leased = [400, 40, 40], [0, 0, 0]
    for _ in range(240):
        first, *_ = by_room([0, 1, 2], lambda engine: Room(leased[engine], limits[engine], 0.0))
        leased[first] += 1
    assert leased == [200, 20, 20]


def test_a_busy_engine_waits_until_the_others_are_as_busy() -> None:
    leased = [0, 0]
    for _ in range(60):
        first, *_ = by_room([0, 1], lambda engine: Room(leased[engine], 100, (0.5, 0.1)[engine]))
        leased[first] += 1
    assert leased == [10, 50]


def test_of_equals_the_first_declared_comes_first() -> None:
    assert by_room([2, 0, 1], lambda _: Room(0, 1, 0.0)) == [2, 0, 1]


def test_a_route_names_its_look_ahead_as_clients_do() -> None:
    assert [route.look_ahead_ms for route in EVERYTHING.all] == [80, 1040, 480, 0, 80, 1040]
    assert isinstance(EVERYTHING.all[0], Route)

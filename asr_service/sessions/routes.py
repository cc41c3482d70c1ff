"""Chooses the engines that a stream may use, by the model, language and look-ahead that its client asks for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from asr_service.core.errors import InvalidArgument
from asr_service.core.model import ModelInfo
from asr_service.recognition.languages import choose_language, lists_language

_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Served:
    """What one engine serves.

    Attributes:
        engine: its number.
        model: the model's name as it was set.
        info: of the model, with the look-ahead that the engine steps it with.
    """

    engine: int
    model: str
    info: ModelInfo


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks for.

    Attributes:
        model: "" for the default.
        language: BCP-47 code, "auto", "multi", or "" for the default.
        look_ahead_ms: None for the default.
    """

    model: str = ""
    language: str = ""
    look_ahead_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """What a stream gets: engines that are alike to it.

    Attributes:
        model: the model's name as it was set.
        info: of the model on the first of the engines; the others' differ in the device at most.
        engines: numbers of the engines that serve just this, in the order of their declaration.
        devices: where each of them runs the model.
    """

    model: str
    info: ModelInfo
    engines: tuple[int, ...]
    devices: tuple[str, ...]

    @property
    def look_ahead_ms(self) -> int:
        """Look-ahead as clients name it."""
        return round(self.info.look_ahead_ms)


@dataclass(frozen=True, slots=True)
class Room:
    """How much room an engine has.

    Attributes:
        leased: streams that it has.
        limit: streams that it admits.
        load: how long live chunks take, over their duration.
        steps: how its steps run: "host", "recorded" or "eager"; "" while it is away.
    """

    leased: int
    limit: int
    load: float
    steps: str = ""

    @property
    def is_full(self) -> bool:
        """Whether it would refuse the next stream for want of a slot."""
        return self.leased >= self.limit


class Routes:
    """All that a service serves.

    The first model is the default one, and of each model its first look-ahead.

    Args:
        served: of every engine, in the order of their declaration; at least one.

    Attributes:
        by_model: of each model by its name the routes, one for each look-ahead; the default ones first.
    """

    def __init__(self, served: Iterable[Served]) -> None:
        alike: dict[str, dict[tuple[int, int], list[Served]]] = {}
        for one in served:
            alike.setdefault(one.model, {}).setdefault(one.info.att_context, []).append(one)
        self.by_model = {
            model: tuple(
                Route(
                    model,
                    ones[0].info,
                    tuple(one.engine for one in ones),
                    tuple(one.info.device for one in ones),
                )
                for ones in contexts.values()
            )
            for model, contexts in alike.items()
        }

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, the default one first."""
        return tuple(self.by_model)

    @property
    def all(self) -> tuple[Route, ...]:
        """A route for each model and look-ahead, the default one first."""
        return tuple(chain.from_iterable(self.by_model.values()))

    def find(self, wanted: Wanted, path: str = "") -> Route:
        """Finds what serves a stream.

        A model may be named as it was set, by what follows the last slash, and without `.nemo` and `@revision`, in any
        case, as far as that leaves no choice. Where no model is asked for, the first one is taken; but another one that
        lists the language, if the first does not offer it.

        Args:
            wanted: what the client asks for.
            path: what comes before the fields' names in errors, such as "config.".

        Raises:
            InvalidArgument: nothing that is served fits; its field is `model`, `language_code` or `look_ahead_ms`, and
                its message lists what there is.
        """
        model = self._find_model(wanted, f"{path}model")
        routes = self.by_model[model]
        self._check_language(wanted.language, routes[0], f"{path}language_code")
        if wanted.look_ahead_ms is None:
            return routes[0]
        for route in routes:
            if route.look_ahead_ms == wanted.look_ahead_ms:
                return route
        field = f"{path}look_ahead_ms"
        raise InvalidArgument(
            f"{field} is {wanted.look_ahead_ms}; it should be {self._list_look_aheads(model)}", field=field
        )

    def _find_model(self, wanted: Wanted, field: str) -> str:
        if not wanted.model:
            return self._default_model(wanted.language)
        if wanted.model in self.by_model:
            return wanted.model
        name = wanted.model.casefold()
        found = [model for model in self.models if name == model.casefold()]
        found = found or [model for model in self.models if name in _short_names(model)]
        if len(found) == 1:
            return found[0]
        shown = f"{wanted.model[:_SHOWN_CHARS]!a}{'...' * (len(wanted.model) > _SHOWN_CHARS)}"
        if found:
            problem = (
                f"is {shown}, which is short for {_join(found, 'and')}; it should name one of them in full"
            )
        else:
            problem = f"is {shown}, which is not served; it should be {_join(self.models, 'or')}, or unset"
        raise InvalidArgument(f"{field} {problem}", field=field)

    def _default_model(self, language: str) -> str:
        (first, *_), *_ = self.by_model.values()
        if language and not _offers(language, first.info):
            for model, routes in self.by_model.items():
                if lists_language(language, routes[0].info):
                    return model
        return first.model

    def _check_language(self, language: str, route: Route, field: str) -> None:
        try:
            choose_language(language, route.info, field)
        except InvalidArgument as error:
            if len(self.by_model) == 1:
                raise
            others = "; ".join(
                f"{model} has {_join(_languages(routes[0].info), 'and')}"
                for model, routes in self.by_model.items()
                if model != route.model and _languages(routes[0].info)
            )
            about = f"this is about the model {route.model}{others and f'; {others}'}"
            raise InvalidArgument(f"{error.message}; {about}", field=field) from None

    def _list_look_aheads(self, model: str) -> str:
        own = _join([str(route.look_ahead_ms) for route in self.by_model[model]], "or")
        if len(self.by_model) == 1:
            return f"{own}, or unset"
        others = "; ".join(
            f"{name} has {_join([str(route.look_ahead_ms) for route in routes], 'and')}"
            for name, routes in self.by_model.items()
            if name != model
        )
        return f"{own} with the model {model}, or unset ({others})"


def by_room(engines: Sequence[int], room: Callable[[int], Room]) -> list[int]:
    """Orders engines that are alike: the one with most room first.

    What counts is the share of its streams that an engine has, which changes at once when one is admitted, together
    with its load, which tells what else its device does but looks back for seconds. A full engine comes last: it is
    asked all the same, since a stream may have ended meanwhile.

    Args:
        engines: numbers, in the order that decides between those that have as much room.
        room: tells how much an engine has, by its number; streams that its caller has asked for and nobody has counted
            yet belong to `leased`.
    """

    def taken(engine: int) -> tuple[bool, float]:
        it = room(engine)
        return it.is_full, it.leased / max(1, it.limit) + it.load

    return sorted(engines, key=taken)


def _short_names(model: str) -> set[str]:
    """Names besides the whole one by which a model may be asked for, in lower case."""
    path = model.rstrip("/").casefold()
    if path.startswith(("/", ".", "~")) or path.endswith(".nemo"):
        last = path.rpartition("/")[2]
        return {last, last.removesuffix(".nemo")}
    repo, at, revision = path.partition("@")
    last = repo.rpartition("/")[2]
    return {repo, last, f"{last}{at}{revision}"}


def _offers(language: str, info: ModelInfo) -> bool:
    try:
        choose_language(language, info)
    except InvalidArgument:
        return False
    return True


def _languages(info: ModelInfo) -> list[str]:
    return list(dict.fromkeys(name for name, _ in info.prompts)) or list(info.languages)


def _join(names: Sequence[str], word: str) -> str:
    """Lists names in a sentence: "a", "a or b", "a, b or c"."""
    *some, last = names
    return f"{', '.join(some)} {word} {last}" if some else last

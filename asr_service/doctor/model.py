"""Checks the models that the settings name, and their look-aheads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asr_service.config import Settings
from asr_service.core.errors import ModelError, ModelUnavailable, SettingsError
from asr_service.doctor.findings import Finding, Verdict
from asr_service.model.hub.names import parse_hub_name
from asr_service.model.locate import find_model, local_path
from asr_service.model.look_ahead import choose_att_context
from asr_service.model.nemo_file.names import CONFIG
from asr_service.model.null import ATT_CONTEXTS, FRAME_MS
from asr_service.model.refusals import unreadable


def check_models(settings: Settings) -> Iterator[Finding]:
    """Checks that each model's file is there and looks like one, and that it has the look-aheads that are set."""
    for name in settings.models:
        found = list(_look_at(name))
        yield from found
        if all(one.verdict is not Verdict.WRONG for one in found):
            yield from _look_aheads(name, settings)


def _look_at(name: str) -> Iterator[Finding]:
    if name == "null":
        yield Finding("model", Verdict.NOTE, "null: no recognition", "set ASR_MODEL for real words")
        return
    try:
        yield from _hub_model(name) if local_path(name) is None else _local_model(name)
    except ModelError as error:
        yield Finding("model", Verdict.WRONG, error.message, "correct ASR_MODEL")


def _look_aheads(name: str, settings: Settings) -> Iterator[Finding]:
    """Looks for the look-aheads of a model that could be started; finds nothing where its file is not here yet."""
    try:
        offered = _offered_look_aheads(name)
    except (ModelError, ModelUnavailable) as error:
        yield Finding(
            "look-ahead", Verdict.WRONG, error.message, "see docs/models.md for models that can be served"
        )
        return
    if offered is None:
        return
    contexts, frame_ms = offered
    chosen = []
    for wanted in settings.att_contexts or (None,):
        try:
            left, right = choose_att_context(wanted, contexts, frame_ms)
        except SettingsError as error:
            yield Finding("look-ahead", Verdict.WRONG, f"{name}: {error.message}", "correct ASR_ATT_CTX")
        else:
            chosen.append(f"{right * frame_ms:.0f} ms ({left},{right})")
    if chosen:
        yield Finding("look-ahead", Verdict.OK, f"{name}: {' and '.join(chosen)}")


def _offered_look_aheads(name: str) -> tuple[Sequence[tuple[int, int]], float] | None:
    """Returns the attention contexts that a model offers and the duration of its frames, None without its file.

    Raises:
        ModelError: it cannot be read, or cannot stream.
        ModelUnavailable: the disk has no room to unpack it.
    """
    if name == "null":
        return ATT_CONTEXTS, FRAME_MS
    try:
        from asr_service.model.hub.cache import find_held
        from asr_service.model.nemo_file.architecture import read_architecture
        from asr_service.model.nemo_file.config import read_config
        from asr_service.model.nemo_file.members import open_members
    except ModuleNotFoundError:
        # Its absence is reported with the packages.
        return None
    path = local_path(name)
    if path is None:
        held = find_held(parse_hub_name(name))
        if held is None:
            return None
        path = held.path
    with open_members(path) as members:
        architecture = read_architecture(read_config(members.read(CONFIG), f"{path}: {CONFIG}"))
    return architecture.encoder.att_contexts, architecture.frame_ms


def _local_model(name: str) -> Iterator[Finding]:
    """Looks for a file or a folder. Raises ModelError as `find_model` does."""
    path = find_model(name)
    is_folder = path.is_dir()
    try:
        with (path / CONFIG if is_folder else path).open("rb") as file:
            start = file.read(512)
    except OSError as error:
        advice = "let this user read it, or correct ASR_MODEL"
        yield Finding("model", Verdict.WRONG, unreadable(path, error).message, advice)
        return
    if is_folder:
        yield Finding("model", Verdict.OK, f"{path}, the folder of an unpacked .nemo file")
    elif start[257:262] != b"ustar" and start[:2] != b"\x1f\x8b":
        yield Finding(
            "model",
            Verdict.WRONG,
            f"{path} is no .nemo archive ({path.stat().st_size} bytes)",
            "fetch it again; a few hundred bytes are often a Git LFS pointer",
        )
    else:
        yield Finding("model", Verdict.OK, f"{path}, {path.stat().st_size / 1e6:.0f} MB")


def _hub_model(name: str) -> Iterator[Finding]:
    """Looks for a hub's model where the service would; the hub is not asked. Raises ModelError at a name of none."""
    wanted = parse_hub_name(name)
    try:
        from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

        from asr_service.model.hub.cache import RepoCache, find_held, matches_etag
        from asr_service.model.hub.failures import explain_disk
    except ModuleNotFoundError:
        # Its absence is reported with the packages.
        return
    try:
        held = find_held(wanted)
        is_whole = held is not None and matches_etag(held.blob, held.blob.name)
    except OSError as error:
        yield Finding(
            "model",
            Verdict.WRONG,
            explain_disk(error, RepoCache(wanted).folder).message,
            "see to the folder, or to HF_HOME",
        )
        return
    if held is None:
        verdict, advice = Verdict.NOTE, "the first start fetches it and needs the network"
        if HF_HUB_OFFLINE:
            verdict, advice = Verdict.WRONG, "HF_HUB_OFFLINE forbids to fetch it: unset it for one start"
        yield Finding("model", verdict, f"{name} is not in {HF_HUB_CACHE}", advice)
    elif is_whole:
        yield Finding("model", Verdict.OK, f"{name}, fetched before ({held.path})")
    else:
        verdict, advice = Verdict.NOTE, "the next start fetches it again and needs the network"
        if HF_HUB_OFFLINE:
            verdict, advice = Verdict.WRONG, "delete that file, and start once without HF_HUB_OFFLINE"
        yield Finding("model", verdict, f"{held.blob} is damaged", advice)

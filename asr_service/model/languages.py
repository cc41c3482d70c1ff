"""Says which languages a model recognizes, and by which prompts: from its file, from what is published, or as set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from asr_service.core.errors import SettingsError
from asr_service.model.nemo_file.config import Section
from asr_service.model.refusals import wrong
from asr_service.recognition.languages import AUTO
from asr_service.recognition.vocabulary import tagged_language

_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")

# Of models whose files do not say it, from their cards. A card that says English without a country is taken as it is.
_PUBLISHED = {
    "demo": ("en-US",),
    "nvidia/stt_en_fastconformer_hybrid_large_streaming_multi": ("en",),
    "nvidia/stt_en_fastconformer_hybrid_large_streaming_80ms": ("en",),
    "nvidia/stt_en_fastconformer_hybrid_large_streaming_480ms": ("en",),
    "nvidia/stt_en_fastconformer_hybrid_large_streaming_1040ms": ("en",),
    "nvidia/stt_en_fastconformer_hybrid_medium_streaming_80ms": ("en",),
    "nvidia/stt_en_fastconformer_hybrid_medium_streaming_80ms_pc": ("en",),
    "nvidia/stt_ka_fastconformer_hybrid_large_streaming_80ms_pc": ("ka",),
    "nvidia/nemotron-speech-streaming-en-0.6b": ("en",),
    "nvidia/parakeet_realtime_eou_120m-v1": ("en",),
}


def tagged_languages(pieces: Sequence[str]) -> tuple[str, ...]:
    """Returns the languages that a vocabulary has tags for, such as `<en-US>`, in its order."""
    return tuple(filter(None, map(tagged_language, pieces)))


def read_dictionary(config: Section, prompts: int) -> Mapping[str, int]:
    """Reads the names of a model's language prompts.

    Args:
        config: of the model.
        prompts: how many its weights have.

    Raises:
        ModelError: there are none, or one has no weights.
    """
    section = config.section("model_defaults").section("prompt_dictionary")
    found = {name: section.integer(name, least=0) for name in section}
    if not found or max(found.values()) >= prompts:
        raise wrong(
            section.path,
            f"it has {len(found)} languages; it should name one or more, by indices below {prompts}",
        )
    return found


def offered_prompts(
    dictionary: Mapping[str, int], tagged: Sequence[str], wanted: Sequence[str]
) -> tuple[tuple[str, int], ...]:
    """Chooses the language prompts that streams may name.

    A model's dictionary may name languages that it was never trained for. Where its vocabulary tags the languages that
    it writes, those of other languages are left out.

    Args:
        dictionary: index by language.
        tagged: languages that the vocabulary has tags for, empty if it has none.
        wanted: languages that the setting names, empty if it is not set.

    Raises:
        SettingsError: the setting names a language without a prompt.
    """
    if unknown := [language for language in wanted if language not in dictionary]:
        raise SettingsError(
            f"ASR_LANGUAGES names {', '.join(unknown)}; this model has prompts for: {', '.join(sorted(dictionary))}",
            field="ASR_LANGUAGES",
        )
    if wanted:
        kept = {*wanted, AUTO}
        return tuple((name, index) for name, index in dictionary.items() if name in kept)
    written = {language.partition("-")[0] for language in tagged}
    return tuple(
        (name, index)
        for name, index in dictionary.items()
        if name == AUTO or not written or name.partition("-")[0] in written
    )


def offered_languages(
    name: str,
    *,
    wanted: Sequence[str],
    tagged: Sequence[str],
    prompts: Sequence[tuple[str, int]],
    parts: Sequence[str],
) -> tuple[str, ...]:
    """Says which languages a model recognizes.

    Args:
        name: of the model.
        wanted: languages that the setting names; they go before all else.
        tagged: languages that the vocabulary has tags for.
        prompts: language prompts that streams may name.
        parts: languages of an aggregate tokenizer.

    Returns:
        BCP-47 codes; empty if nothing says it.
    """
    if wanted:
        return tuple(wanted)
    if tagged:
        return tuple(tagged)
    named = [language for language, _ in prompts if language != AUTO and _CODE.fullmatch(language)]
    return tuple(named) or tuple(parts) or _PUBLISHED.get(name.partition("@")[0], ())

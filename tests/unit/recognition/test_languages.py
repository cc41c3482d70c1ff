"""Which language a stream gets, by what its client asks for and what its model knows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.core.errors import InvalidArgument
from asr_service.core.model import ModelInfo
from asr_service.model.null import NullModel
from asr_service.recognition.languages import choose_language, lists_language, prompt_index

PLAIN = NullModel(slots=1).info
ENGLISH = replace(PLAIN, languages=("en-US",))
BELGIAN = replace(PLAIN, languages=("nl-BE", "fr-BE", "fr-FR"))
# A part of the dictionary that Nemotron 3.5 publishes.
PROMPTED = replace(
    PLAIN,
    prompts=(
        *(("en-US", 0), ("en", 0), ("en-GB", 1), ("es-ES", 2), ("es-US", 3), ("es", 3)),
        *(("zh-CN", 4), ("de-DE", 9), ("pt-BR", 20), ("pt-PT", 21), ("auto", 101)),
    ),
)
# It has to be told.
TOLD = replace(PROMPTED, prompts=PROMPTED.prompts[:-1])


@pytest.mark.parametrize(
    ("info", "wanted", "chosen", "prompt"),
    [
        (PROMPTED, "", "", 101),
        (PROMPTED, "auto", "auto", 101),
        (PROMPTED, "multi", "auto", 101),
        (PROMPTED, "en-US", "en-US", 0),
        (PROMPTED, "EN_us", "en-US", 0),
        (PROMPTED, " en-GB ", "en-GB", 1),
        (PROMPTED, "en", "en", 0),
        (PROMPTED, "es-MX", "es", 3),
        (PROMPTED, "de", "de-DE", 9),
        (PROMPTED, "de-AT", "de-DE", 9),
        (PROMPTED, "zh-Hans-CN", "zh-CN", 4),
        (TOLD, "en-GB", "en-GB", 1),
        (replace(TOLD, prompts=(("ja-JP", 5),)), "", "ja-JP", 5),
        (PLAIN, "", "", -1),
        (PLAIN, "auto", "", -1),
        (PLAIN, "ZH_hant_tw", "zh-Hant-TW", -1),
        (PLAIN, "tlh", "tlh", -1),
        (ENGLISH, "", "", -1),
        (ENGLISH, "multi", "", -1),
        (ENGLISH, "en-US", "en-US", -1),
        (ENGLISH, "en-GB", "en-US", -1),
        (ENGLISH, "en", "en-US", -1),
        (BELGIAN, "fr-FR", "fr-FR", -1),
        (BELGIAN, "fr-CA", "fr-BE", -1),
    ],
)
def test_a_language_is_found_as_clients_write_it(
    info: ModelInfo, wanted: str, chosen: str, prompt: int
) -> None:
    assert choose_language(wanted, info) == chosen
    assert prompt_index(chosen, info) == prompt


@pytest.mark.parametrize(
    ("info", "wanted", "says"),
    [
        (PROMPTED, "ka-GE", "one of en-US, en, en-GB, es-ES, es-US, es, zh-CN, de-DE, pt-BR, pt-PT, auto"),
        # Two of them, and nothing to choose by.
        (PROMPTED, "pt", "pt-BR or pt-PT"),
        (PROMPTED, "pt-AO", "pt-BR or pt-PT"),
        (TOLD, "", "has to be told"),
        (TOLD, "auto", "one of en-US, en, en-GB"),
        (ENGLISH, "de-DE", "must be en-US, not 'de-DE'"),
        (ENGLISH, "eng", "must be en-US, not 'eng'"),
        (BELGIAN, "de-BE", "one of nl-BE, fr-BE, fr-FR"),
    ],
)
def test_an_unknown_language_is_refused_with_those_that_there_are(
    info: ModelInfo, wanted: str, says: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        choose_language(wanted, info, "language")
    assert refused.value.field == "language"
    assert refused.value.message.startswith("language must be ")
    assert says in refused.value.message


@given(
    st.text(alphabet="abcdefnspruzESUNC-_* ", max_size=12), st.sampled_from([PROMPTED, TOLD, ENGLISH, PLAIN])
)
def test_whatever_is_chosen_is_chosen_again(wanted: str, info: ModelInfo) -> None:
    try:
        chosen = choose_language(wanted, info)
    except InvalidArgument:
        return
    assert choose_language(chosen, info) == chosen
    assert not info.prompts or chosen in dict(info.prompts) or not chosen


@pytest.mark.parametrize(
    ("info", "wanted", "listed"),
    [
        (PROMPTED, "de-AT", True),
        (PROMPTED, "multi", True),
        (PROMPTED, "tlh", False),
        (TOLD, "auto", False),
        (ENGLISH, "en-GB", True),
        (ENGLISH, "auto", False),
        (ENGLISH, "de", False),
        (PLAIN, "en", False),
    ],
)
def test_a_language_is_listed_only_where_the_model_says_so(
    info: ModelInfo, wanted: str, listed: bool
) -> None:
    assert lists_language(wanted, info) is listed

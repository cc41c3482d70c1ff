"""A null model that is told languages, says which one it heard, and when an utterance is over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from asr_service.core.model import ModelInfo
from testbed.by_request import StepRequest, StepResult
from tests.support.requested import RequestedModel

LANGUAGES = ("en-US", "de-DE", "ja-JP")
PROMPTS = (("en-US", 0), ("de-DE", 9), ("ja-JP", 10), ("auto", 101))
FOUND = "ja-JP"
"""The language that it hears where it is not told one."""
TAG_AFTER = 1
"""Silent frames after a word, before it says which language that was."""
OVER_AFTER = 3
"""Silent frames after a word, before it says that the utterance is over."""


@dataclasses.dataclass
class _Segment:
    """What a slot's segment has heard.

    Attributes:
        prompt: index of its prompt.
        frames: so far.
        silent: frames since the last word; None before the first word.
        is_over: whether the utterance is over: nothing more is said.
    """

    prompt: int
    frames: int = 0
    silent: int | None = None
    is_over: bool = False


class PolyglotModel(RequestedModel):
    """Makes the null model's words, each further along the alphabet by the index of the stream's prompt.

    As models with `<EOU>` do, it says nothing more after one until a segment begins anew.

    Args:
        slots: streams that can be open at the same time.
    """

    def __init__(self, *, slots: int) -> None:
        super().__init__(slots=slots)
        plain = super().info
        tags = tuple(f"<{language}>" for language in LANGUAGES)
        self._words = len(plain.pieces) - 1
        self._described = dataclasses.replace(
            plain, languages=LANGUAGES, prompts=PROMPTS, pieces=(*plain.pieces, *tags, "<EOU>")
        )
        self._segments: dict[int, _Segment] = {}

    @property
    def info(self) -> ModelInfo:
        """The description of the model."""
        return self._described

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        """Steps the given slots. Raises ValueError as the null model does, and for a prompt that there is not."""
        heard = super().step(requests)
        return [self._tell(request, result) for request, result in zip(requests, heard, strict=True)]

    def _tell(self, request: StepRequest, heard: StepResult) -> StepResult:
        if request.is_first:
            if request.prompt not in dict(PROMPTS).values():
                raise ValueError(f"there is no prompt {request.prompt}")
            self._segments[request.slot] = _Segment(request.prompt)
        segment = self._segments[request.slot]
        # The null model has a token for each loud frame.
        words = dict(zip(heard.token_frames, heard.tokens, strict=True))
        tokens, frames = [], []
        for frame in range(segment.frames, segment.frames + heard.frames):
            said = list(self._say(segment, words.get(frame)))
            tokens += said
            frames += [frame] * len(said)
        segment.frames += heard.frames
        return StepResult(tuple(tokens), tuple(frames), (0.9,) * len(tokens), heard.frames)

    def _say(self, segment: _Segment, word: int | None) -> Iterator[int]:
        """Yields what a frame adds: a word, a language's tag or the end."""
        if segment.is_over:
            return
        if word is not None:
            segment.silent = 0
            yield 1 + (word - 1 + segment.prompt) % self._words
        elif segment.silent is not None:
            segment.silent += 1
            if segment.silent == TAG_AFTER:
                names = {index: name for name, index in PROMPTS if name in LANGUAGES}
                yield 1 + self._words + LANGUAGES.index(names.get(segment.prompt, FOUND))
            elif segment.silent == OVER_AFTER:
                segment.is_over = True
                yield 1 + self._words + len(LANGUAGES)

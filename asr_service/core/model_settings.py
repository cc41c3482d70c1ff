"""The settings of models, on their way from the environment to `asr_service.model`."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The settings of one model.

    Attributes:
        name: hub name, path of a `.nemo` file or of a folder that one was unpacked to, "demo" for the bundled model, or
            "null" for no recognition.
        att_context: attention context (left, right) in encoder frames, None for the default; see
            `asr_service.model.look_ahead`.
        decoder: "rnnt" or "ctc", None for rnnt where the model has it and ctc otherwise.
        device: "cpu", "cuda:N", or None for the first GPU if there is one and the CPU otherwise.
        precision: "fp32", "tf32" (GPUs) or "bf16".
        encoder: "fast", or "nemo" for NeMo's own step.
        slots: streams that can be open at the same time; None for what memory holds (`asr_service.model.slot_budget`).
        threads: CPU threads of a step, None for one for each CPU that may be used (`asr_service.core.cpus`).
        languages: BCP-47 codes of the languages to offer, empty for those that the model says.
        sharers: engines that share the memory of its device, this one included.
    """

    name: str
    att_context: tuple[int, int] | None = None
    decoder: str | None = None
    device: str | None = None
    precision: str = "fp32"
    encoder: str = "fast"
    slots: int | None = None
    threads: int | None = None
    languages: tuple[str, ...] = ()
    sharers: int = 1


def parse_att_context(text: str) -> tuple[int, int]:
    """Reads an attention context written as `70,1` or `[70, 1]`: (left, right) in encoder frames.

    Raises:
        ValueError: the text is neither; the message says what is right.
    """
    match = re.fullmatch(r"\s*(\[?)\s*(-?\d+)\s*,\s*(-?\d+)\s*(\]?)\s*", text)
    if match is None or bool(match[1]) != bool(match[4]):
        raise ValueError("should be two whole numbers with a comma between, such as 70,1")
    return int(match[2]), int(match[3])


def parse_att_contexts(text: str) -> tuple[tuple[int, int], ...]:
    """Reads attention contexts with semicolons between, such as `70,1;70,13`: at least one, of different look-aheads.

    Raises:
        ValueError: one cannot be read, or two have the same look-ahead; the message says what is right.
    """
    contexts = tuple(map(parse_att_context, split_list(text, ";") or (text,)))
    rights = [right for _, right in contexts]
    for right in rights:
        if rights.count(right) > 1:
            raise ValueError(
                f"should name each look-ahead once, since streams choose by it; {right} frames are there twice"
            )
    return contexts


def split_list(text: str, separator: str) -> tuple[str, ...]:
    """Splits a list at its separators, without spaces around its parts and without empty ones."""
    return tuple(part.strip() for part in text.split(separator) if part.strip())

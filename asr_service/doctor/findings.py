"""What a check finds, and how it tells it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        subject: what was checked.
        verdict: WRONG keeps the service from starting, or from serving as it is set to.
        found: what there is.
        advice: what to do, "" if nothing.
    """

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""

"""Chooses the look-ahead that a model steps with, by the rules of `ASR_ATT_CTX`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from asr_service.core.errors import SettingsError

_log = logging.getLogger(__name__)

DEFAULT = (70, 1)
# The model card's names for the model's own settings of 480 and 1040 ms.
_CARD_NAMES = {(70, 16): 480.0, (70, 33): 1040.0}


def choose_att_context(
    wanted: tuple[int, int] | None, offered: Sequence[tuple[int, int]], frame_ms: float
) -> tuple[int, int]:
    """Chooses the attention context that a setting means among those that a model offers.

    Args:
        wanted: (left, right) in encoder frames, as the setting has it; None for the default: 70,1 where the model has
            it, else its first.
        offered: the contexts that the model was trained with, its own default first.
        frame_ms: duration of an encoder frame.

    Raises:
        SettingsError: the model has no such context; the message lists what it offers.
    """
    if wanted is None:
        return DEFAULT if DEFAULT in offered else offered[0]
    if wanted in offered:
        return wanted
    look_ahead_ms = _CARD_NAMES.get(wanted)
    for left, right in offered:
        if look_ahead_ms is not None and left == wanted[0] and abs(right * frame_ms - look_ahead_ms) < 1.0:
            _log.info(
                "ASR_ATT_CTX %d,%d is the documented name of %.0f ms: using the model's own %d,%d",
                *wanted, look_ahead_ms, left, right,
            )  # fmt: skip
            return left, right
    listing = "; ".join(f"{left},{right} ({right * frame_ms:.0f} ms look-ahead)" for left, right in offered)
    raise SettingsError(
        f"ASR_ATT_CTX={wanted[0]},{wanted[1]}: this model does not have it. It offers: {listing}",
        field="ASR_ATT_CTX",
    )

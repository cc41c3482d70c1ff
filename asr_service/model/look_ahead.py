"""Which look-ahead is meant: the rules for `ASR_ATT_CTX`."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from asr_service.core.errors import SettingsError

_log = logging.getLogger(__name__)

# The model card's names for the model's own settings of 480 and 1040 ms.
_CARD_NAMES = {(70, 16): 480.0, (70, 33): 1040.0}


def choose_context(wanted: str, offered: Sequence[tuple[int, int]], frame_ms: float) -> tuple[int, int]:
    """The model's attention context that a setting names.

    Args:
        wanted: "left,right" in encoder frames.
        offered: what the model was trained with.
        frame_ms: duration of an encoder frame.

    Raises:
        SettingsError: if it names none; the message lists what the model offers.
    """
    listing = "; ".join(f"{left},{right} ({right * frame_ms:.0f} ms look-ahead)" for left, right in offered)
    match = re.fullmatch(r"\s*\[?\s*(-?\d+)\s*,\s*(-?\d+)\s*\]?\s*", wanted)
    if match is None:
        raise SettingsError(
            f"ASR_ATT_CTX is {wanted!r}: write left,right in encoder frames. This model offers: {listing}",
            field="ASR_ATT_CTX",
        )
    pair = (int(match[1]), int(match[2]))
    if pair in offered:
        return pair
    look_ahead = _CARD_NAMES.get(pair)
    for left, right in offered:
        if look_ahead is not None and left == pair[0] and abs(right * frame_ms - look_ahead) < 1.0:
            _log.info(
                "ASR_ATT_CTX %d,%d is the documented name of %.0f ms: using the model's own %d,%d",
                *pair, look_ahead, left, right,
            )  # fmt: skip
            return left, right
    raise SettingsError(
        f"ASR_ATT_CTX is {wanted!r}, which this model does not have. It offers: {listing}",
        field="ASR_ATT_CTX",
    )

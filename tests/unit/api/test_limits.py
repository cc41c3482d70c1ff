"""Limits are those of the contract, wherever else they are known."""

from __future__ import annotations

import asr.v1.asr_pb2 as pb
import pytest
from pydantic import ValidationError

from asr_service.api import limits
from asr_service.config import Settings
from asr_service.recognition.phrases import PhraseLimits
from tests.support.process import ROOT
from ws_bridge import wire


def test_the_contract_states_what_is_served() -> None:
    """The numbers that clients have been built for: they may grow, and none may shrink."""
    assert (limits.MIN_RATE_HZ, limits.MAX_RATE_HZ) == (8_000, 192_000)
    assert (limits.MIN_CHANNELS, limits.MAX_CHANNELS) == (1, 2)
    assert (limits.MIN_SILENCE_MS, limits.MAX_SILENCE_MS) == (100, 10_000)
    assert limits.MIN_START_TIMEOUT_MS == 100
    assert (limits.MAX_NAME_CHARS, limits.MAX_TAG_CHARS) == (128, 128)
    assert (limits.MAX_LANGUAGE_CHARS, limits.MAX_MODEL_CHARS) == (35, 512)
    assert PhraseLimits(1_000, 1_000, 100, 20_000, 0.0, 10.0) == limits.PHRASES


def test_messages_are_as_large_as_the_contract_promises() -> None:
    least = int(
        pb.GetServiceInfoResponse.DESCRIPTOR.fields_by_name["max_message_bytes"]
        .GetOptions()
        .Extensions[pb.limits]
        .min
    )
    assert Settings(max_message_bytes=least).max_message_bytes == least
    with pytest.raises(ValidationError):
        Settings(max_message_bytes=least - 1)
    assert pb.RecognizeRequest(audio=b"\0" * wire.MAX_AUDIO_BYTES).ByteSize() < least


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("docs/websocket.md", f"{limits.MIN_RATE_HZ} to {limits.MAX_RATE_HZ} |"),
        ("docs/websocket.md", f"1 to {limits.MAX_NAME_CHARS} printable ASCII"),
        ("docs/websocket.md", f"{limits.MIN_SILENCE_MS} to {limits.MAX_SILENCE_MS} |"),
        ("docs/interop.md", f"{limits.MIN_RATE_HZ} to {limits.MAX_RATE_HZ} Hz"),
    ],
)
def test_pages_tell_the_limits_of_the_contract(page: str, says: str) -> None:
    assert says in (ROOT / page).read_text(encoding="utf-8")

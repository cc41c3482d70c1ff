"""OpenAI's paths: opens their sessions, and answers in HTTP what cannot be opened."""

from __future__ import annotations

import uuid

from ws_bridge.dialect import HttpAnswer
from ws_bridge.dialects.openai.errors import WORDS, refusal
from ws_bridge.dialects.openai.realtime import OpenAIRealtime
from ws_bridge.dialects.openai.recording import OpenAIRecording
from ws_bridge.dialects.openai.session import SessionSettings, invalid, read_model
from ws_bridge.fields import MAX_KEY, show
from ws_bridge.handshake import Handshake
from ws_bridge.status import Failure, Refused

_KEY_PROTOCOL = "openai-insecure-api-key."
_BETA_PROTOCOL = "openai-beta.realtime-v1"


class RealtimeDoor:
    """Takes handshakes of the realtime protocol."""

    words = WORDS

    def open(self, handshake: Handshake) -> OpenAIRealtime:
        """Reads a handshake. Raises Refused if it asks for what cannot be served."""
        intent = handshake.last("intent") or "transcription"
        if intent != "transcription":
            raise invalid("intent", f"is {show(intent)}: only transcription is served here")
        settings = SessionSettings(model=read_model(handshake.last("model"), "model"))
        offers = handshake.subprotocols
        at_first = (
            "realtime=v1" in ",".join(handshake.headers.get_all("OpenAI-Beta")) or _BETA_PROTOCOL in offers
        )
        return OpenAIRealtime(
            settings,
            uuid.uuid4().hex,
            read_key(handshake),
            at_first=at_first,
            protocol=["realtime"] if "realtime" in offers else (),
        )

    def refuse(self, failure: Failure) -> HttpAnswer:
        """Says in HTTP why a handshake is refused."""
        return refusal(failure)


class TranscriptionsDoor:
    """Takes recordings."""

    words = WORDS

    def open(self, handshake: Handshake) -> OpenAIRecording:
        """Reads the start of a request; the rest is in its form."""
        return OpenAIRecording(uuid.uuid4().hex, read_key(handshake))

    def refuse(self, failure: Failure) -> HttpAnswer:
        """Says in HTTP why a recording is refused."""
        return refusal(failure)


def read_key(handshake: Handshake) -> str:
    """The client's API key, "" if it sends none: in a header, or as a subprotocol.

    Raises:
        Refused: it is no key.
    """
    offers = handshake.subprotocols
    offered = [name.removeprefix(_KEY_PROTOCOL) for name in offers if name.startswith(_KEY_PROTOCOL)]
    key = handshake.authorization("bearer") or next(iter(offered), "")
    if len(key) > MAX_KEY or not (key.isascii() and key.isprintable()):
        raise Refused(Failure("unauthenticated", f"the API key is not known here; {WORDS.send_a_key}"))
    return key

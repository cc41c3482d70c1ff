"""OpenAI's realtime transcription, `/v1/realtime?intent=transcription`, as a dialect. Pure.

    client                                              server
                                                        session.created
    session.update                                      session.updated
    input_audio_buffer.append, again and again          input_audio_buffer.speech_started
                                                        conversation.item.input_audio_transcription.delta
                                                        input_audio_buffer.speech_stopped, .committed
                                                        conversation.item.added, .done
                                                        conversation.item.input_audio_transcription.completed
    without turn_detection:
    input_audio_buffer.commit                           input_audio_buffer.committed, conversation.item.added, ...
    input_audio_buffer.clear                            input_audio_buffer.cleared

The stream is opened with the first audio, and anew with the first audio after settings were changed. A message that
cannot be served is answered with an `error`, and the session goes on. Clients end it by closing the connection.
"""

from __future__ import annotations

import binascii
import json
from collections import deque
from collections.abc import Sequence
from typing import Any

from asr.v1 import asr_pb2

from ws_bridge.dialect import Ending, Reply, Step
from ws_bridge.dialects.openai.errors import WORDS, error_fields
from ws_bridge.dialects.openai.session import SessionSettings, invalid, read_update
from ws_bridge.dialects.openai.turns import Item, Turns, stable_text
from ws_bridge.fields import sendable, show
from ws_bridge.messages import Audio, Finalize, Init, Message, State
from ws_bridge.status import NORMAL, Failure, Refused
from ws_bridge.wire import bytes_per_s

PATIENCE_S = 600.0
"""How long a session may be open before its first audio: pools keep them for later."""

_MOST_EVENT_ID = 512
"""Characters of an `event_id`, as OpenAI's reference has it."""
_UPDATES = ("session.update", "transcription_session.update")
_EVENTS = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
)
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


class OpenAIRealtime:
    """Speaks OpenAI's realtime transcription with one client.

    Args:
        settings: of the session, as far as the handshake says.
        sid: of the session, and of its streams.
        key: API key.
        at_first: whether the client expects the events that clients were sent at first (beta).
        protocol: the subprotocol that the client gets, if it offers one.
    """

    patience_s = PATIENCE_S
    still_there = False
    words = WORDS
    answers_elsewhere = False

    def __init__(
        self,
        settings: SessionSettings,
        sid: str,
        key: str,
        *,
        at_first: bool = False,
        protocol: Sequence[str] = (),
    ) -> None:
        self._settings = settings
        self._at_first = at_first
        self._turns = Turns(sid)
        self._events = 0
        self._init: Init | None = None
        # Whether the service finds the ends of turns: of each stream that results are still to come of.
        self._finds_turns: deque[bool] = deque()
        # Of the session's audio, in ms: what has come, and what of it is in an item that is over.
        self._appended_ms = self._committed_ms = 0.0
        # Of the session's audio, in ms: that of streams before this one, what was heard of it, and what was finished.
        self._before_ms = self._heard_ms = self._finished_ms = 0
        self.state = State.NEW
        self.sid = sid
        self.key: str | None = key
        self.headers: Sequence[tuple[str, str]] = [("Sec-WebSocket-Protocol", one) for one in protocol]

    def learn(self, info: asr_pb2.GetServiceInfoResponse) -> None:
        """Needs nothing of it: clients are told what they asked for."""

    def opening(self) -> Sequence[Step]:
        """Tells the session's settings."""
        return (self._session("created"),)

    # ------------------------------------------------------------------------------------------- what the client says

    def receive(self, data: str | bytes) -> Sequence[Step]:
        """Reads an event; one that cannot be served is answered."""
        event_id = None
        try:
            event = _read_event(data)
            event_id = _read_event_id(event.get("event_id"))
            return self._act(event)
        except Refused as refused:
            return (self._reply("error", error=error_fields(refused.failure, event_id)),)

    def _act(self, event: dict[str, Any]) -> Sequence[Step]:
        kind = event["type"]
        if kind == "input_audio_buffer.append":
            return self._append(event.get("audio"))
        if kind in _UPDATES:
            self._settings = read_update(event.get("session"), self._settings)
            return (self._session("updated", at_first=kind == _UPDATES[1]),)
        if kind == "input_audio_buffer.commit":
            return self._commit()
        if kind == "input_audio_buffer.clear":
            return self._clear()
        raise invalid("type", f"is {show(kind)}: a transcription session takes {', '.join(_EVENTS)}")

    def _append(self, text: object) -> Sequence[Step]:
        if not isinstance(text, str):
            raise invalid("audio", f"is {show(text)}: it should be audio in base64")
        try:
            audio = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
        except (ValueError, UnicodeEncodeError):
            raise invalid("audio", "is no base64") from None
        if not audio:
            return ()
        opening = self._open()
        # It is there once the stream is open.
        assert self._init is not None
        self._appended_ms += 1000 * len(audio) / bytes_per_s(self._init)
        return (*opening, Audio(audio))

    def _open(self) -> Sequence[Message]:
        """Opens the stream if there is none, or none with these settings."""
        init = self._settings.init(self.sid, self.key or "")
        if init == self._init:
            return ()
        self._init, self.state = init, State.OPEN
        self._finds_turns.append(bool(self._settings.turns))
        return (init,)

    @property
    def _has_uncommitted(self) -> bool:
        # Results tell times in whole ms.
        return self._appended_ms - self._committed_ms > (0.5 if self._settings.turns else 0)

    def _commit(self) -> Sequence[Step]:
        if not self._has_uncommitted:
            failure = Failure(
                "invalid_argument", "there is no audio to commit: append some first", "input_audio_buffer"
            )
            raise Refused(failure)
        self._committed_ms = self._appended_ms
        item = self._turns.commit()
        return (*self._told_of(item), Finalize(item.id))

    def _clear(self) -> Sequence[Step]:
        cleared = self._reply("input_audio_buffer.cleared")
        if not self._has_uncommitted:
            return (cleared,)
        self._committed_ms = self._appended_ms
        return (cleared, Finalize(self._turns.commit(clears=True).id))

    # ----------------------------------------------------------------------------------------------- what is recognized

    def left(self) -> Sequence[Step]:
        """Never comes: with its client the stream has gone."""
        return ()

    def take(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Tells that someone speaks, and has stopped; and what was said."""
        result = response.result
        start_ms, self._heard_ms = self._heard_ms, self._before_ms + response.audio_processed_ms
        if not result.is_final:
            return self._starts(start_ms) if result.text else ()
        reason, finds_turns = result.final_reason, self._finds_turns[0]
        told: list[str] = []
        if result.text:
            told += self._starts(start_ms)
            self._turns.current.parts.append(result.text)
        if reason == asr_pb2.FINAL_REASON_END_OF_STREAM:
            # Another one follows it, with other settings.
            self._before_ms = self._heard_ms
            self._finds_turns.popleft()
        item = self._turns.current
        if reason == asr_pb2.FINAL_REASON_FINALIZE:
            return [*told, *self._finishes(result)]
        if item.committed or not (finds_turns or reason == asr_pb2.FINAL_REASON_ENDED_BY_SERVER):
            # It goes on until the final that was asked for, or will be.
            return told
        if not item.parts:
            return told
        if item.started:
            end = {"audio_end_ms": self._heard_ms, "item_id": item.id}
            told.append(self._event("input_audio_buffer.speech_stopped", **end))
        told += [reply.text for reply in self._told_of(item)]
        self._committed_ms = max(self._committed_ms, self._heard_ms)
        return [*told, *self._finishes(result)]

    def interim(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Tells the words that have come and will not change."""
        result, item = response.result, self._turns.current
        if item.cleared:
            return ()
        new = item.delta(item.text(stable_text(result.text, result.stability)))
        return (self._transcribed(item, "delta", delta=new),) if new else ()

    def _starts(self, start_ms: int) -> Sequence[str]:
        """Tells that someone speaks, where the service finds turns."""
        item = self._turns.current
        if item.started or item.committed or not self._finds_turns[0]:
            return []
        item.started = True
        start = {"audio_start_ms": start_ms, "item_id": item.id}
        return [self._event("input_audio_buffer.speech_started", **start)]

    def _finishes(self, result: asr_pb2.RecognitionResult) -> Sequence[str]:
        """Tells what was said in the item that results were about."""
        item = self._turns.finish()
        seconds = (self._heard_ms - self._finished_ms) / 1000
        self._finished_ms = self._heard_ms
        if item.cleared:
            return []
        text = item.text()
        new = item.delta(text)
        told = [self._transcribed(item, "delta", delta=new)] if new else []
        more: dict[str, Any] = {"transcript": text, "usage": {"type": "duration", "seconds": seconds}}
        if result.language_code:
            more["languages"] = [{"code": result.language_code}]
        return [*told, self._transcribed(item, "completed", **more)]

    def _told_of(self, item: Item) -> Sequence[Reply]:
        """Tells that an item is over and is one."""
        previous = self._turns.follow(item)
        content = [{"type": "input_audio", "transcript": None}]
        message = {"id": item.id, "object": "realtime.item", "type": "message", "status": "completed"}
        about = {"previous_item_id": previous, "item": message | {"role": "user", "content": content}}
        kinds = ("created",) if self._at_first else ("added", "done")
        return (
            self._reply("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous),
            *(self._reply(f"conversation.item.{kind}", **about) for kind in kinds),
        )

    # -------------------------------------------------------------------------------------------------------- its end

    def done(self) -> Ending:
        """Never comes of the client's messages: it closes the connection."""
        return Ending((), NORMAL)

    def failed(self, failure: Failure) -> Ending:
        """Says what was wrong: of each item that is not finished, and of the session."""
        fields = error_fields(failure, None)
        of_item = {name: value for name, value in fields.items() if name != "event_id"}
        lost = [self._transcribed(item, "failed", error=of_item) for item in self._turns.pending]
        return Ending((*lost, self._event("error", error=fields)), failure.close_code, failure.message)

    # ------------------------------------------------------------------------------------------------------ its events

    def _session(self, what: str, *, at_first: bool | None = None) -> Reply:
        if self._at_first if at_first is None else at_first:
            return self._reply(
                f"transcription_session.{what}", session=self._settings.told_at_first(self.sid)
            )
        return self._reply(f"session.{what}", session=self._settings.told(self.sid))

    def _transcribed(self, item: Item, what: str, **more: Any) -> str:
        return self._event(f"{_TRANSCRIPTION}.{what}", item_id=item.id, content_index=0, **more)

    def _reply(self, kind: str, **fields: Any) -> Reply:
        return Reply(self._event(kind, **fields))

    def _event(self, kind: str, **fields: Any) -> str:
        self._events += 1
        event = {"type": kind, "event_id": f"event_{self.sid}_{self._events}", **fields}
        return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def _read_event_id(given: object) -> str | None:
    """The id by which an error names the client's event; None for what cannot be told, or is longer than ids are."""
    if isinstance(given, str) and len(given) <= _MOST_EVENT_ID and sendable(given):
        return given
    return None


def _read_event(data: str | bytes) -> dict[str, Any]:
    if isinstance(data, bytes):
        raise invalid("message", "is binary: audio goes into input_audio_buffer.append, in base64")
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise invalid("message", "is no JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise invalid("type", "is missing: an event is an object with a type")
    return event

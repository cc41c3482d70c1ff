"""Deepgram's recordings, `POST /v1/listen`: the body is the file, the query says what is asked for. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from asr.v1 import asr_pb2

from ws_bridge.dialect import HttpAnswer
from ws_bridge.dialects.deepgram.query import Query
from ws_bridge.dialects.deepgram.results import Model, dump, word
from ws_bridge.file_start import AudioFormat
from ws_bridge.messages import Init
from ws_bridge.status import Failure


class DeepgramRecording:
    """One recording.

    Args:
        query: what the client asks for.
        request_id: of the request; it is the stream's name too.
        created: when the request came, as ISO 8601 has it.
    """

    is_form = False
    is_streamed = False

    def __init__(self, query: Query, request_id: str, created: str) -> None:
        self._query = query
        self._created = created
        self._model = Model()
        self._channels = 1
        self._heard_ms = 0
        # By channel.
        self._finals: dict[int, list[asr_pb2.RecognitionResult]] = {}
        self.key = query.key
        self.sid = request_id
        self.raw = AudioFormat(query.enc, query.sr, query.channels) if query.enc else None

    @property
    def separate_channels(self) -> bool:
        """Whether each channel is recognized by itself."""
        return self._query.multichannel

    def learn(self, info: asr_pb2.GetServiceInfoResponse) -> None:
        """Takes the model that is named in the response."""
        self._model = Model(info.model, info.version, info.decoder)

    def read_form(self, fields: Mapping[str, Sequence[str]]) -> None:
        """Never comes: the body is the recording."""

    def init(self, found: AudioFormat) -> Init:
        """How a recording of this format is recognized: as one utterance, or as those that are asked for."""
        self._channels = found.channels
        init = self._query.init(self.sid, found.enc, found.sr, found.channels, live=False)
        return replace(init, endpoint_ms=self._query.split_ms) if self._query.utterances else init

    def take(self, response: asr_pb2.RecognizeResponse) -> Sequence[str]:
        """Keeps a final."""
        if response.result.is_final:
            self._finals.setdefault(response.result.channel, []).append(response.result)
        self._heard_ms = max(self._heard_ms, response.audio_processed_ms)
        return ()

    def answer(self, sha256: str) -> HttpAnswer:
        """Makes the response."""
        results: dict[str, Any] = {"channels": [self._channel(number) for number in range(self._channels)]}
        if self._query.utterances:
            results["utterances"] = self._utterances()
        metadata = {
            "transaction_key": "deprecated",
            "request_id": self.sid,
            "sha256": sha256,
            "created": self._created,
            "duration": self._heard_ms / 1000,
            "channels": self._channels,
            "models": [self._model.uuid],
            "model_info": {self._model.uuid: self._model.info},
        }
        body = dump({"metadata": metadata, "results": results})
        return HttpAnswer(200, body, [("dg-request-id", self.sid)])

    def failed(self, failure: Failure) -> Sequence[str]:
        """Never comes: the response is made at the end."""
        return ()

    def _channel(self, number: int) -> dict[str, Any]:
        finals = self._finals.get(number, [])
        words = [one for final in finals for one in final.words]
        confidence = sum(one.confidence for one in words) / len(words) if words else 0.0
        best: dict[str, Any] = {
            "transcript": " ".join(final.text for final in finals if final.text),
            "confidence": round(confidence, 4),
            "words": [word(one, self._query) for one in words],
        }
        languages = list(dict.fromkeys(final.language_code for final in finals if final.language_code))
        told: dict[str, Any] = {"alternatives": [best]}
        if self._query.tells_language and languages:
            best["languages"] = languages
            told["detected_language"] = languages[0]
        return told

    def _utterances(self) -> list[dict[str, Any]]:
        told = [
            {
                "start": final.words[0].start_ms / 1000,
                "end": final.words[-1].end_ms / 1000,
                "confidence": round(final.confidence, 4),
                "channel": number,
                "transcript": final.text,
                "words": [word(one, self._query) for one in final.words],
                "id": str(uuid.uuid5(uuid.UUID(self.sid), f"{number} {final.utterance_index}")),
            }
            for number, finals in self._finals.items()
            for final in finals
            if final.words
        ]
        return sorted(told, key=lambda one: (one["start"], one["channel"]))

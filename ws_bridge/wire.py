"""Translates messages of the WebSocket protocol to requests of the service, and its results to JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator

from asr.v1 import asr_pb2

from ws_bridge.fields import contract_limits
from ws_bridge.messages import COMPRESSED, Audio, Finalize, Init, KeepAlive, Message
from ws_bridge.status import Failure

MAX_AUDIO_BYTES = int(contract_limits(asr_pb2.GetServiceInfoResponse, "max_message_bytes").min) // 2
"""Most audio in one gRPC request, in bytes: half of what every service takes. Larger packets are cut."""

_ENCODINGS = {
    "linear16": asr_pb2.AUDIO_ENCODING_LINEAR16,
    "mulaw": asr_pb2.AUDIO_ENCODING_MULAW,
    "alaw": asr_pb2.AUDIO_ENCODING_ALAW,
    "float32": asr_pb2.AUDIO_ENCODING_FLOAT32,
    "flac": asr_pb2.AUDIO_ENCODING_FLAC,
    "ogg_opus": asr_pb2.AUDIO_ENCODING_OGG_OPUS,
    "webm_opus": asr_pb2.AUDIO_ENCODING_WEBM_OPUS,
    "auto": asr_pb2.AUDIO_ENCODING_AUTO,
}
_REASONS = {
    asr_pb2.FINAL_REASON_ENDPOINT: "endpoint",
    asr_pb2.FINAL_REASON_FINALIZE: "finalize",
    asr_pb2.FINAL_REASON_END_OF_STREAM: "end_of_stream",
    asr_pb2.FINAL_REASON_END_OF_UTTERANCE: "end_of_utterance",
    asr_pb2.FINAL_REASON_ENDED_BY_SERVER: "ended_by_server",
}


def to_requests(message: Message) -> Iterator[asr_pb2.RecognizeRequest]:
    """Yields the requests that a message becomes; none for `close`, which is the half-close of the call."""
    match message:
        case Init():
            yield asr_pb2.RecognizeRequest(config=_config(message))
        case Audio(data):
            for start in range(0, len(data), MAX_AUDIO_BYTES) or (0,):
                yield asr_pb2.RecognizeRequest(audio=data[start : start + MAX_AUDIO_BYTES])
        case Finalize(tag):
            yield asr_pb2.RecognizeRequest(finalize=asr_pb2.Finalize(tag=tag))
        case KeepAlive():
            yield asr_pb2.RecognizeRequest(keep_alive=asr_pb2.KeepAlive())


def joins_packets(init: Init) -> bool:
    """Whether packets may wait for those that complete a chunk.

    Not where their times matter, nor for two channels, nor compressed: nobody knows how many bytes make a chunk then.
    """
    return init.gap_ms is None and init.channels == 1 and init.enc not in COMPRESSED


def bytes_per_s(init: Init) -> int:
    """Bytes of a second of the stream's audio; of compressed audio, of what would be raw."""
    return (init.sr or 16_000) * init.channels * {"mulaw": 1, "alaw": 1, "float32": 4}.get(init.enc, 2)


def _config(init: Init) -> asr_pb2.RecognitionConfig:
    config = asr_pb2.RecognitionConfig(
        encoding=_ENCODINGS[init.enc],
        sample_rate_hertz=init.sr or None,
        interim_results=init.interim,
        word_times=init.words,
        stream_id=init.sid,
        language_code=init.language,
        model=init.model,
        look_ahead_ms=init.look_ahead_ms,
        end_tokens=init.end_tokens,
        chunk_ends=joins_packets(init),
    )
    if init.endpoint_ms is not None:
        config.endpointing.trailing_silence_ms = init.endpoint_ms
    if init.gap_ms is not None:
        config.fill_gaps_after_ms = init.gap_ms
    if init.phrases or init.boost is not None:
        config.phrase_boosts.add(phrases=init.phrases, boost=init.boost)
    for phrases, boost in init.groups:
        config.phrase_boosts.add(phrases=phrases, boost=boost)
    if init.channels != 1:
        config.audio_channel_count = init.channels
    if not init.punctuation:
        config.automatic_punctuation = False
    return config


def last_final(interim: asr_pb2.RecognizeResponse) -> asr_pb2.RecognizeResponse:
    """Makes the last final of a stream whose service is gone, of the newest interim."""
    final = asr_pb2.RecognizeResponse()
    final.CopyFrom(interim)
    final.result.is_final = True
    final.result.final_reason = asr_pb2.FINAL_REASON_ENDED_BY_SERVER
    return final


def result_json(response: asr_pb2.RecognizeResponse, init: Init) -> str:
    """One result as the text of a WebSocket message.

    Exactly the documented keys; others only where the client asked for them (`words`, `details`, `tag`, `language`).
    """
    result = response.result
    stamp = response.server_time
    fields: dict[str, object] = {
        "op": "final" if result.is_final else "interim",
        "sid": init.sid,
        "text": result.text,
        "final": result.is_final,
        "ts": stamp.seconds * 1000 + stamp.nanos // 1_000_000,
    }
    if result.finalize_tag:
        fields["tag"] = result.finalize_tag
    if (init.language or init.details) and result.language_code:
        fields["language"] = result.language_code
    if init.words and result.is_final:
        fields["words"] = [
            {
                "word": word.word,
                "start_ms": word.start_ms,
                "end_ms": word.end_ms,
                "confidence": round(word.confidence, 4),
            }
            for word in result.words
        ]
    if init.details:
        fields["utterance"] = result.utterance_index
        fields["audio_ms"] = response.audio_processed_ms
        if result.is_final:
            fields["reason"] = _REASONS.get(result.final_reason, "")
            fields["confidence"] = round(result.confidence, 4)
    return _dump(fields)


def error_json(failure: Failure, sid: str) -> str:
    """A failure as the text of a WebSocket message; `sid` is "" before init."""
    fields: dict[str, object] = {"op": "error", "sid": sid, "code": failure.code, "message": failure.message}
    if failure.field:
        fields["field"] = failure.field
    if failure.retry_after_ms is not None:
        fields["retry_after_ms"] = failure.retry_after_ms
    return _dump(fields)


def _dump(fields: dict[str, object]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))

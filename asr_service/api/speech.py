"""Serves the `asr.v1` protocol; `stream_call.py` has the life of a call, which the protocols share."""

from __future__ import annotations

from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from asr_service import __version__
from asr_service.api import messages
from asr_service.api.service_info import service_info
from asr_service.api.stream_call import Context, Opening, StreamCall, abort
from asr_service.core.errors import InvalidArgument, OutOfOrder
from asr_service.core.values import Result
from asr_service.recognition.vocabulary import ends_utterances
from asr_service.sessions.admission import Admission, starting


class SpeechServicer(asr_pb2_grpc.SpeechServiceServicer):
    """Serves `asr.v1.SpeechService`.

    Args:
        admission: admits the calls.
        max_message_bytes: as in the setting of the same name.
    """

    def __init__(self, admission: Admission, *, max_message_bytes: int) -> None:
        self._admission = admission
        self._max_message_bytes = max_message_bytes

    async def Recognize(  # type: ignore[override]  # noqa: N802 - the stubs' types know the generator style only
        self, _requests: object, context: Context
    ) -> None:
        """Serves one stream, from its config to its last final."""
        await _SpeechCall(self._admission, context).run()

    async def GetServiceInfo(  # noqa: N802 - the contract's name
        self, _request: pb.GetServiceInfoRequest, context: Context
    ) -> pb.GetServiceInfoResponse:
        """Answers with what is served; UNAVAILABLE until the model is ready."""
        admission, numbers = self._admission, self._admission.numbers
        if admission.routes is None:
            await abort(context, admission.refusal or starting())
        return service_info(
            admission.routes,
            admission.room,
            version=__version__,
            max_streams=numbers.stream_limit,
            active_streams=numbers.streams,
            max_message_bytes=self._max_message_bytes,
            measured_streams=numbers.measured_streams,
            load=numbers.load,
        )


class _SpeechCall(StreamCall):
    """Serves one `Recognize` call."""

    request_name = "asr.v1.RecognizeRequest"
    silence_hint = "keep_alive"
    method = "asr.v1.SpeechService/Recognize"
    # Whether responses tell where the next chunk ends, and whether they tell of those after it.
    _tells_chunk = _tells_later_chunks = False

    async def opening(self) -> Opening:
        """Reads the first message, which has to be a config that can be served."""
        request = await self.next_request()
        if request is None:
            raise OutOfOrder("the stream was closed before its config; the first message has to be config")
        kind = request.WhichOneof("request")
        if kind is None:
            raise _nothing_set()
        if kind != "config":
            raise OutOfOrder(f"{kind} came before config; the first message has to be config", field=kind)
        config = request.config
        route = messages.find_route(config, self.admission.routes)
        opening = Opening(
            messages.stream_config(config, route), messages.channels(config), messages.stated_rate(config)
        )
        # Of compressed audio nobody knows ahead how many bytes make a chunk.
        raw = opening.config.coding is None
        if config.chunk_ends and opening.channels == 1 and route is not None and raw:
            self._tells_chunk = True
            # A model that ends utterances by itself starts anew where nobody knows ahead.
            self._tells_later_chunks = not ends_utterances(route.info.pieces)
        return opening

    def audio(self, request: pb.RecognizeRequest) -> bytes:
        """Returns the audio in a request."""
        return request.audio

    def control(self, request: pb.RecognizeRequest) -> None:
        """Executes a finalize; refuses a request that has no place here."""
        match request.WhichOneof("request"):
            case "audio" | "keep_alive":
                pass
            case "finalize":
                self.finalize(messages.finalize_tag(request.finalize))
            case "config":
                raise OutOfOrder(
                    "config came a second time; it is sent once, as the first message", field="config"
                )
            case _:
                raise _nothing_set()

    def response(self, result: Result, channel: int) -> pb.RecognizeResponse:
        """Makes the message of a result, under the stream's id."""
        message = messages.response(self.record.stream_id, result, channel)
        if self._tells_chunk:
            end, size = self.sessions[channel].next_chunk
            if end:
                message.next_chunk.end_bytes = end
                message.next_chunk.chunk_bytes = size if self._tells_later_chunks else 0
        return message


def _nothing_set() -> InvalidArgument:
    return InvalidArgument(
        "request is empty; it should hold one of config, audio, finalize or keep_alive", field="request"
    )

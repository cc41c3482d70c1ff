"""The `asr.v1` servicer: what its messages mean; `call.py` has the life of a stream."""

from __future__ import annotations

from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

from asr_service import __version__
from asr_service.api import messages as wire
from asr_service.api.stream_call import Call, Context, Opening, abort
from asr_service.core.errors import InvalidArgument, OutOfOrder
from asr_service.core.values import Result
from asr_service.sessions.admission import Door, starting


class SpeechServicer(asr_pb2_grpc.SpeechServiceServicer):
    """Serves `asr.v1.SpeechService`."""

    def __init__(self, door: Door, *, max_message_bytes: int) -> None:
        """The limit as in the setting of the same name."""
        self._door = door
        self._max_message_bytes = max_message_bytes

    async def Recognize(  # type: ignore[override]  # noqa: N802 - the stubs' types know the generator style only
        self, _requests: object, context: Context
    ) -> None:
        """One stream, from its config to its last final."""
        await _SpeechCall(self._door, context).run()

    async def GetServiceInfo(  # noqa: N802 - the contract's name
        self, _request: pb.GetServiceInfoRequest, context: Context
    ) -> pb.GetServiceInfoResponse:
        """What is served; UNAVAILABLE until the model is loaded."""
        if self._door.info is None:
            await abort(context, self._door.refusal or starting())
        return wire.service_info(
            self._door.info,
            version=__version__,
            max_streams=self._door.sessions.max_streams,
            active_streams=self._door.sessions.active,
            max_message_bytes=self._max_message_bytes,
            measured_streams=self._door.measured_streams,
            load=self._door.sessions.load,
        )


class _SpeechCall(Call):
    """One `Recognize` call."""

    request_name = "asr.v1.RecognizeRequest"
    silence_hint = "keep_alive"
    method = "asr.v1.SpeechService/Recognize"

    async def opening(self) -> Opening:
        """The first message, which has to be a config that can be served."""
        request = await self.next_request()
        if request is None:
            raise OutOfOrder("the stream was closed before its config; the first message has to be config")
        kind = request.WhichOneof("request")
        if kind is None:
            raise _nothing_set()
        if kind != "config":
            raise OutOfOrder(f"{kind} came before config; the first message has to be config", field=kind)
        return Opening(wire.stream_config(request.config, self.door.info), wire.channels(request.config))

    def audio(self, request: pb.RecognizeRequest) -> bytes:
        """Audio in a request."""
        return request.audio

    def control(self, request: pb.RecognizeRequest) -> None:
        """Finalize, keep_alive, or what should not have come."""
        match request.WhichOneof("request"):
            case "audio" | "keep_alive":
                pass
            case "finalize":
                self.finalize(wire.finalize_tag(request.finalize))
            case "config":
                raise OutOfOrder(
                    "config came a second time; it is sent once, as the first message", field="config"
                )
            case _:
                raise _nothing_set()

    def response(self, result: Result, channel: int) -> pb.RecognizeResponse:
        """A result under the stream's name."""
        return wire.response(self.name, result, channel)


def _nothing_set() -> InvalidArgument:
    return InvalidArgument(
        "request is empty; it should hold one of config, audio, finalize or keep_alive", field="request"
    )

"""The Riva servicer: what its messages mean; `stream_call.py` has the life of a call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import grpc.aio
import riva.client.proto.riva_asr_pb2 as pb
import riva.client.proto.riva_asr_pb2_grpc as pb_grpc

from asr_service.api.riva import audio_files, messages
from asr_service.api.stream_call import Context, Opening, StreamCall, abort
from asr_service.core.errors import OutOfOrder
from asr_service.core.values import Result
from asr_service.sessions.admission import Admission, starting

_UPLOAD_CHUNK = 32_768  # bytes of an upload that are handed over at once: a second of audio


def add(server: Any, admission: Admission) -> str:
    """Adds the servicer to a grpc.aio server; the service's full name."""
    pb_grpc.add_RivaSpeechRecognitionServicer_to_server(RivaServicer(admission), server)
    name: str = pb.DESCRIPTOR.services_by_name["RivaSpeechRecognition"].full_name
    return name


class RivaServicer(pb_grpc.RivaSpeechRecognitionServicer):  # type: ignore[misc]  # untyped base
    """Serves `nvidia.riva.asr.RivaSpeechRecognition` as streams of this service."""

    def __init__(self, admission: Admission) -> None:
        """Calls are admitted by `admission`, as those of `asr.v1` are."""
        self._admission = admission

    async def StreamingRecognize(self, _requests: object, context: Context) -> None:  # noqa: N802
        """One stream, from its config to its last final."""
        await _StreamCall(self._admission, context).run()

    async def Recognize(self, request: pb.RecognizeRequest, context: Context) -> pb.RecognizeResponse:  # noqa: N802
        """A whole recording: raw audio as its config says, or a WAV, FLAC or Ogg file."""
        upload = _Upload(request, context)
        await _UploadCall(self._admission, upload).run()
        return messages.offline_response(upload.finals, request.id.value)

    async def GetRivaSpeechRecognitionConfig(  # noqa: N802
        self, request: pb.RivaSpeechRecognitionConfigRequest, context: Context
    ) -> pb.RivaSpeechRecognitionConfigResponse:
        """What is served; UNAVAILABLE until the model is loaded."""
        if self._admission.model_info is None:
            await abort(context, self._admission.refusal or starting())
        return messages.service_config(self._admission.model_info, request.model_name)


class _StreamCall(StreamCall):
    """One stream of Riva's protocol.

    Its utterances end by themselves without its asking for that. It is admitted with its first audio, since a WAV
    header may tell better than the config what the audio is.
    """

    request_name = "nvidia.riva.asr.StreamingRecognizeRequest"
    silence_hint = "silence"
    method = "nvidia.riva.asr.RivaSpeechRecognition/StreamingRecognize"
    endpoints = True

    def __init__(self, admission: Admission, context: Any) -> None:
        super().__init__(admission, context)
        self._id = ""

    async def opening(self) -> Opening:
        """The config, and the header of the audio if it has one."""
        request = await self.next_request()
        if request is None:
            raise OutOfOrder("the stream was closed before its streaming_config, which has to come first")
        kind = request.WhichOneof("streaming_request")
        if kind != "streaming_config":
            raise OutOfOrder(
                f"{kind or 'an empty request'} came before streaming_config, which has to come first",
                field="streaming_config",
            )
        asked = messages.asked(
            request.streaming_config, endpoints=self.endpoints, info=self.admission.model_info
        )
        self._id = request.id.value
        name = messages.stream_name(self._id)
        asked.stream_config(name, asked.format)  # what is wrong already is told before any audio comes
        header = await self._header()
        audio_format = header.format if header else asked.format
        return Opening(asked.stream_config(name, audio_format), audio_format.channels)

    async def _header(self) -> audio_files.WavHeader | None:
        """Reads ahead to the first audio; the header that it starts with."""
        held = b""
        while True:
            request = await self.next_request()
            if request is None:
                self.pending.extend((pb.StreamingRecognizeRequest(audio_content=held), grpc.aio.EOF))
                return None
            _no_config(request)
            held += request.audio_content
            if not held:
                continue  # there is nothing yet that could be made final
            is_wav = audio_files.may_be_wav(held)
            header = audio_files.wav_header(held) if is_wav else None
            if is_wav and header is None:
                continue
            request.audio_content = held[header.size :] if header else held
            self.pending.append(request)
            return header

    def audio(self, request: pb.StreamingRecognizeRequest) -> bytes:
        """Audio in a request."""
        content: bytes = request.audio_content
        return content

    def control(self, request: pb.StreamingRecognizeRequest) -> None:
        """A final that is asked for, with audio or without."""
        if request.runtime_config:
            if messages.forces_final(request):
                self.finalize("")
        elif not request.audio_content:
            _no_config(request)

    def response(self, result: Result, channel: int) -> pb.StreamingRecognizeResponse | None:
        """A result, unless it has no text."""
        return messages.streaming_response(result, channel, self._id)


class _UploadCall(_StreamCall):
    """A whole recording, served as a stream of its own."""

    method = "nvidia.riva.asr.RivaSpeechRecognition/Recognize"
    endpoints = False


class _Upload:
    """A unary call as the stream it is served by: its audio comes in pieces, its finals are kept."""

    def __init__(self, request: pb.RecognizeRequest, context: Context) -> None:
        self.finals: list[pb.StreamingRecognizeResponse] = []
        self._context = context
        self._requests = self._cut(request)

    @staticmethod
    def _cut(request: pb.RecognizeRequest) -> Iterator[pb.StreamingRecognizeRequest]:
        config, audio = request.config, request.audio
        if audio_files.is_file(audio):
            audio_format, pieces = audio_files.decoded(audio)
            config = messages.with_format(config, audio_format)
        else:
            pieces = (audio[at : at + _UPLOAD_CHUNK] for at in range(0, len(audio), _UPLOAD_CHUNK))
        first = pb.StreamingRecognizeRequest(streaming_config=pb.StreamingRecognitionConfig(config=config))
        first.id.CopyFrom(request.id)
        yield first
        for piece in pieces:
            yield pb.StreamingRecognizeRequest(audio_content=piece)

    async def read(self) -> Any:
        """The next piece."""
        return next(self._requests, grpc.aio.EOF)

    async def write(self, response: pb.StreamingRecognizeResponse) -> None:
        """Keeps a final; interims are not asked for."""
        self.finals.append(response)

    async def send_initial_metadata(self, _metadata: object) -> None:
        """A unary call needs none."""

    def peer(self) -> str:
        """Who calls."""
        return str(self._context.peer())

    def invocation_metadata(self) -> Any:
        """What came with the call."""
        return self._context.invocation_metadata()

    async def abort_with_status(self, status: Any) -> NoReturn:
        """Ends the unary call."""
        await self._context.abort_with_status(status)


def _no_config(request: pb.StreamingRecognizeRequest) -> None:
    if request.WhichOneof("streaming_request") == "streaming_config":
        raise OutOfOrder(
            "streaming_config came a second time; it is sent once, as the first message",
            field="streaming_config",
        )

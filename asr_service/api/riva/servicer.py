"""Serves Riva's protocol; `stream_call.py` has the life of a call, which the protocols share."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc.aio
import riva.client.proto.riva_asr_pb2 as pb
import riva.client.proto.riva_asr_pb2_grpc as pb_grpc

from asr_service.api.riva import audio_files, messages
from asr_service.api.riva.upload_request import UploadRequest, read_upload_request
from asr_service.api.stream_call import Context, Opening, StreamCall, abort
from asr_service.core.errors import OutOfOrder
from asr_service.core.values import Result
from asr_service.recognition.wav_header import MAGIC_BYTES, AudioFormat, may_be_wav, read_wav_header
from asr_service.sessions.admission import Admission, starting

_decoder = ThreadPoolExecutor(1, "decoder")


def add_servicer(server: Any, admission: Admission) -> str:
    """Adds the servicer to a grpc.aio server; returns the service's full name."""
    name: str = pb.DESCRIPTOR.services_by_name["RivaSpeechRecognition"].full_name
    servicer = RivaServicer(admission)
    pb_grpc.add_RivaSpeechRecognitionServicer_to_server(servicer, server)
    # The one added last is asked. Its requests are as large as recordings, and are not copied.
    upload = grpc.unary_unary_rpc_method_handler(
        servicer.Recognize, read_upload_request, pb.RecognizeResponse.SerializeToString
    )
    server.add_registered_method_handlers(name, {"Recognize": upload})
    return name


class RivaServicer(pb_grpc.RivaSpeechRecognitionServicer):  # type: ignore[misc]  # untyped base
    """Serves `nvidia.riva.asr.RivaSpeechRecognition` as streams of this service.

    Args:
        admission: admits the calls, as it does those of `asr.v1`.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def StreamingRecognize(self, _requests: object, context: Context) -> None:  # noqa: N802
        """Serves one stream, from its config to its last final."""
        await _StreamCall(self._admission, context).run()

    async def Recognize(self, request: UploadRequest, context: Context) -> pb.RecognizeResponse:  # noqa: N802
        """Recognizes a whole recording: raw audio as its config says, or a file that libsndfile reads."""
        upload = _Upload(request, context)
        await _UploadCall(self._admission, upload).run()
        return messages.offline_response(upload.finals, request.message.id.value)

    async def GetRivaSpeechRecognitionConfig(  # noqa: N802
        self, request: pb.RivaSpeechRecognitionConfigRequest, context: Context
    ) -> pb.RivaSpeechRecognitionConfigResponse:
        """Answers with what is served; UNAVAILABLE until the model is ready."""
        routes = self._admission.routes
        if routes is None:
            await abort(context, self._admission.refusal or starting())
        return messages.service_config(routes, request.model_name)


class _StreamCall(StreamCall):
    """Serves one stream of Riva's protocol.

    Its utterances end by themselves even where the config does not ask for that. Its config is answered at once, and it
    takes its place with its first audio, since a WAV header there counts for more than the format in the config.
    """

    request_name = "nvidia.riva.asr.StreamingRecognizeRequest"
    silence_hint = "silence"
    file_hint = "; or send the file whole, to Recognize"
    method = "nvidia.riva.asr.RivaSpeechRecognition/StreamingRecognize"
    endpoints = True

    def __init__(self, admission: Admission, context: Any) -> None:
        super().__init__(admission, context)
        self._id = ""
        # Of the config.
        self._channels = 1

    async def opening(self) -> Opening:
        """Reads the config, and the WAV header at the start of the audio if it has one."""
        request = await self.next_request()
        if request is None:
            raise OutOfOrder("the stream was closed before its streaming_config, which has to come first")
        kind = request.WhichOneof("streaming_request")
        if kind != "streaming_config":
            raise OutOfOrder(
                f"{kind or 'an empty request'} came before streaming_config, which has to come first",
                field="streaming_config",
            )
        requested = messages.read_config(
            request.streaming_config, endpoints=self.endpoints, routes=self.admission.routes
        )
        self._id = request.id.value
        name = messages.stream_name(self._id)
        # What is wrong with the config, or that there is no place, is reported before any audio comes.
        config = requested.stream_config(name, requested.format, self.admission.routes)
        self._channels = requested.format.channels
        await self.admission.check(config, self._channels, self.key)
        await self.accept(name)
        if config.coding is not None:
            stated_rate = request.streaming_config.config.sample_rate_hertz or None
            return Opening(config, self._channels, stated_rate)
        audio_format = await self._read_format()
        if audio_format:
            messages.check_file(audio_format, request.streaming_config.config.sample_rate_hertz)
        # The model may have come meanwhile.
        audio_format = audio_format or requested.format
        config = requested.stream_config(name, audio_format, self.admission.routes)
        return Opening(config, audio_format.channels)

    async def _read_format(self) -> AudioFormat | None:
        """Reads requests up to the first audio; returns the format that a WAV header there gives, None without one."""
        start = b""
        while True:
            request = await self.next_request()
            if request is None:
                self.pending.extend((pb.StreamingRecognizeRequest(audio_content=start), grpc.aio.EOF))
                return None
            _refuse_config(request)
            start += request.audio_content
            if not start:
                await self._answer_early(request)
                continue
            header = None
            if may_be_wav(start[:MAGIC_BYTES]):
                header = read_wav_header(start) if len(start) >= MAGIC_BYTES else None
                if header is None:
                    await self._answer_early(request)
                    continue
            request.audio_content = start
            self.pending.append(request)
            return header.format if header else None

    async def _answer_early(self, request: pb.StreamingRecognizeRequest) -> None:
        """Answers a request for a final before there is audio that could be made final."""
        if messages.forces_final(request):
            for channel in range(self._channels):
                await self.answer(messages.empty_final(channel, self._id))

    def audio(self, request: pb.StreamingRecognizeRequest) -> bytes:
        """Returns the audio in a request."""
        content: bytes = request.audio_content
        return content

    def control(self, request: pb.StreamingRecognizeRequest) -> None:
        """Executes a request for a final, which may come with audio; refuses a second config."""
        if request.runtime_config:
            if messages.forces_final(request):
                self.finalize("")
        elif not request.audio_content:
            _refuse_config(request)

    def response(self, result: Result, channel: int) -> pb.StreamingRecognizeResponse | None:
        """Makes the message of a result; None for one without text that nobody has asked for."""
        return messages.streaming_response(result, channel, self._id)


class _UploadCall(_StreamCall):
    """Serves a whole recording as a stream."""

    method = "nvidia.riva.asr.RivaSpeechRecognition/Recognize"
    endpoints = False
    file_hint = ""


class _Upload:
    """Stands in for the context of a streaming call: gives the audio of a unary call in pieces, and keeps its finals.

    Args:
        request: of the unary call.
        context: of the unary call.

    Attributes:
        finals: results so far.
    """

    def __init__(self, request: UploadRequest, context: Context) -> None:
        self.finals: list[pb.StreamingRecognizeResponse] = []
        self._context = context
        self._request = request
        self._upload: audio_files.Upload | None = None

    async def read(self) -> Any:
        """Returns the next request of the streaming call that this upload makes.

        Files are decoded in a thread, for which other streams do not wait; all uploads share it, so that many of them
        leave the other cores to the engine.
        """
        loop = asyncio.get_running_loop()
        if self._upload is None:
            self._upload = await loop.run_in_executor(_decoder, audio_files.open_upload, self._request.audio)
            config = self._request.message.config
            if self._upload.format:
                stated = 0 if self._upload.rate_is_nominal else config.sample_rate_hertz
                messages.check_file(self._upload.format, stated)
                config = messages.with_format(config, self._upload.format)
            first = pb.StreamingRecognizeRequest(
                streaming_config=pb.StreamingRecognitionConfig(config=config)
            )
            first.id.CopyFrom(self._request.message.id)
            return first
        piece = await loop.run_in_executor(_decoder, next, self._upload.pieces, b"")
        return pb.StreamingRecognizeRequest(audio_content=piece) if piece else grpc.aio.EOF

    async def write(self, response: pb.StreamingRecognizeResponse) -> None:
        """Keeps a final; there are no interims, since the config does not ask for them."""
        self.finals.append(response)

    async def send_initial_metadata(self, _metadata: object) -> None:
        """Sends nothing: a unary call needs no initial metadata."""

    def peer(self) -> str:
        """Returns the address of the caller."""
        return str(self._context.peer())

    def invocation_metadata(self) -> Any:
        """Returns the metadata of the unary call."""
        return self._context.invocation_metadata()

    async def abort_with_status(self, status: Any) -> NoReturn:
        """Ends the unary call with a status."""
        await self._context.abort_with_status(status)


def _refuse_config(request: pb.StreamingRecognizeRequest) -> None:
    """Raises OutOfOrder if the request is a config, which has to come first."""
    if request.WhichOneof("streaming_request") == "streaming_config":
        raise OutOfOrder(
            "streaming_config came a second time; it is sent once, as the first message",
            field="streaming_config",
        )

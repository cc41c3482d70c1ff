"""When a quiet call is ended, on a clock that the test moves; `e2e/test_grpc_deaf.py` has real clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import grpc.aio
import pytest
from asr.v1 import asr_pb2 as pb
from google.rpc import status_pb2
from grpc_status import rpc_status

from asr_service.api.speech import SpeechServicer
from asr_service.api.stream_call import LAST_FINAL_S, LAST_READ_S
from asr_service.core.commands import Command, HalfClose
from asr_service.core.commands import Ended as EndedEvent
from asr_service.core.values import FinalReason, Result
from asr_service.observability.metrics import Metrics
from asr_service.sessions.admission import Admission
from asr_service.sessions.registry import SessionRegistry

IDLE_S = 300.0


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time can be moved on."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


class Ended(Exception):
    """The status a call was ended with."""


class Client:
    """gRPC's side of a call: a client that says what the test says, and reads only once `reads` is set."""

    def __init__(self, loop: Clock) -> None:
        self._loop = loop
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.heard: list[pb.RecognizeResponse] = []
        self.commands: list[Command] = []
        self.sessions = SessionRegistry(self.commands.append, max_streams=1, inbox_bytes=lambda _: 1 << 20)
        admission = Admission(self.sessions, Metrics(), idle_timeout_s=IDLE_S, max_stream_s=0)
        admission.refusal = None
        context: Any = self
        self.call = loop.create_task(SpeechServicer(admission, max_message_bytes=1).Recognize(None, context))

    async def say(self, message: object) -> None:
        """Sends a message, or EOF; returns when the service has taken it and waits for the next."""
        self._said.put_nowait(message)
        await self.settle()

    async def pass_s(self, seconds: float) -> None:
        """Lets time pass."""
        self._loop.skipped += seconds
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    @property
    def reasons(self) -> list[pb.FinalReason.ValueType]:
        """Why what was heard is final."""
        return [response.result.final_reason for response in self.heard]

    async def give_final(self) -> None:
        """The engine makes a final."""
        self.sessions.deliver([Result(1, "text", FinalReason.FINALIZE, 0, (), 1.0, 0, "", 0)])
        await self.settle()

    async def status(self) -> str:
        """What the call, which has to be over, ended with."""
        assert self.call.done()
        with pytest.raises(Ended) as ended:
            await self.call
        return str(ended.value)

    # What a servicer asks of its context.

    async def read(self) -> Any:
        return await self._said.get()

    async def write(self, response: pb.RecognizeResponse) -> None:
        await self.reads.wait()
        self.heard.append(response)

    async def send_initial_metadata(self, _metadata: object) -> None:
        pass

    def peer(self) -> str:
        return "test"

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def abort_with_status(self, status: Any) -> NoReturn:
        packed = dict(status.trailing_metadata)[rpc_status.GRPC_DETAILS_METADATA_KEY]
        raise Ended(status_pb2.Status.FromString(packed).message)


def on_a_clock(test: Callable[[Client], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs a test on a loop of its own with a client whose stream is open."""

    def run() -> None:
        with asyncio.Runner(loop_factory=Clock) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, Clock)

            async def main() -> None:
                client = Client(loop)
                await client.say(pb.RecognizeRequest(config=pb.RecognitionConfig()))
                assert client.sessions.active == 1
                await test(client)
                client.call.cancel()

            runner.run(main())

    run.__name__ = test.__name__
    return run


KEEP_ALIVE = pb.RecognizeRequest(keep_alive=pb.KeepAlive())


@on_a_clock
async def test_a_client_that_says_nothing_is_ended(client: Client) -> None:
    await client.pass_s(IDLE_S - 1)
    assert not client.call.done()
    await client.pass_s(2)
    assert client.commands[-1] == HalfClose(1, by_server=True)
    assert not client.call.done(), "the last final comes first"
    client.sessions.deliver([Result(1, "text", FinalReason.ENDED_BY_SERVER, 0, (), 1.0, 0, "", 0)])
    client.sessions.deliver([EndedEvent(1, None)])
    client.reads.set()
    await client.settle()
    assert "nothing was received for 300 s; send audio, or keep_alive" in await client.status()
    assert client.reasons == [pb.FINAL_REASON_ENDED_BY_SERVER]


@on_a_clock
async def test_an_engine_that_makes_no_last_final_is_not_waited_for(client: Client) -> None:
    """What it said last is the last final then; what the client still sends is dropped."""
    client.sessions.deliver([Result(1, "said so far", None, 0, (), 1.0, 0, "", 0)])
    client.reads.set()
    await client.settle()
    await client.pass_s(IDLE_S + 1)
    await client.say(pb.RecognizeRequest(audio=b".."))
    await client.say(pb.RecognizeRequest(finalize=pb.Finalize()))
    assert not client.call.done()
    await client.pass_s(LAST_FINAL_S + 1)
    assert "nothing was received" in await client.status()
    assert [response.result.text for response in client.heard] == ["said so far"] * 2
    assert client.reasons == [pb.FINAL_REASON_UNSPECIFIED, pb.FINAL_REASON_ENDED_BY_SERVER]


@on_a_clock
async def test_a_client_that_does_not_read_the_last_final_is_not_waited_for(client: Client) -> None:
    await client.pass_s(IDLE_S + 1)
    client.sessions.deliver([Result(1, "text", FinalReason.ENDED_BY_SERVER, 0, (), 1.0, 0, "", 0)])
    client.sessions.deliver([EndedEvent(1, None)])
    await client.settle()
    assert not client.call.done()
    await client.pass_s(LAST_READ_S + 1)
    assert "nothing was received" in await client.status()


@on_a_clock
async def test_keep_alive_keeps_it_open(client: Client) -> None:
    for _ in range(5):
        await client.pass_s(IDLE_S - 1)
        await client.say(KEEP_ALIVE)
    assert not client.call.done()


@on_a_clock
async def test_the_wait_for_the_tail_is_not_the_clients(client: Client) -> None:
    await client.say(grpc.aio.EOF)
    for _ in range(5):
        await client.pass_s(IDLE_S + 1)
    assert not client.call.done()


@on_a_clock
async def test_reading_is_watched_from_the_half_close_on(client: Client) -> None:
    """It had read nothing for long before: that counts as little as what it would have had to say."""
    await client.give_final()
    await client.pass_s(200)
    await client.say(KEEP_ALIVE)
    await client.pass_s(150)
    await client.say(grpc.aio.EOF)
    for _ in range(2):
        await client.pass_s(149)
        assert not client.call.done()
    await client.pass_s(3)
    assert "results were not read for 300 s after the end of the audio" in await client.status()


@on_a_clock
async def test_after_the_half_close_each_result_has_its_time(client: Client) -> None:
    await client.say(grpc.aio.EOF)
    await client.pass_s(200)
    await client.give_final()
    await client.pass_s(299)
    assert not client.call.done()
    client.reads.set()
    await client.settle()
    assert len(client.heard) == 1
    client.reads.clear()
    await client.give_final()
    await client.pass_s(299)
    assert not client.call.done()
    await client.pass_s(2)
    assert "results were not read" in await client.status()

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

from asr_service.api.call_ending import LAST_FINAL_S, LAST_READ_S
from asr_service.api.speech import SpeechServicer
from tests.support.desk import Desk, admission_to
from tests.support.streams import speech

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
        self.desk = Desk(slots=1)
        self.admission = admission_to(self.desk, idle_timeout_s=IDLE_S, inbox_s=60.0)
        context: Any = self
        servicer = SpeechServicer(self.admission, max_message_bytes=1)
        self.call = loop.create_task(servicer.Recognize(None, context))

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

    async def answer(self) -> None:
        """The engine answers all that it has got."""
        self.desk.leases[0].answer_all()
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
                assert client.admission.active == 1
                await test(client)
                client.call.cancel()

            runner.run(main())

    run.__name__ = test.__name__
    return run


AUDIO = pb.RecognizeRequest(audio=speech(0.2))
FINALIZE = pb.RecognizeRequest(finalize=pb.Finalize(tag="x"))
KEEP_ALIVE = pb.RecognizeRequest(keep_alive=pb.KeepAlive())


@on_a_clock
async def test_a_client_that_says_nothing_is_ended(client: Client) -> None:
    await client.say(AUDIO)
    await client.pass_s(IDLE_S - 1)
    assert not client.call.done()
    await client.pass_s(2)
    assert not client.call.done(), "the last final comes first"
    await client.answer()
    client.reads.set()
    await client.settle()
    assert "nothing was received for 300 s; send audio, or keep_alive" in await client.status()
    assert client.reasons[-1] == pb.FINAL_REASON_ENDED_BY_SERVER


@on_a_clock
async def test_an_engine_that_makes_no_last_final_is_not_waited_for(client: Client) -> None:
    """What it said last is the last final then; what the client still sends is dropped."""
    client.reads.set()
    await client.say(AUDIO)
    client.desk.leases[0].answer()
    await client.settle()
    await client.pass_s(IDLE_S + 1)
    await client.say(pb.RecognizeRequest(audio=b".."))
    await client.say(pb.RecognizeRequest(finalize=pb.Finalize()))
    assert not client.call.done()
    await client.pass_s(LAST_FINAL_S + 1)
    assert "nothing was received" in await client.status()
    interim, final = (response.result.text for response in client.heard)
    assert interim == final != ""
    assert client.reasons == [pb.FINAL_REASON_UNSPECIFIED, pb.FINAL_REASON_ENDED_BY_SERVER]


@on_a_clock
async def test_a_client_that_does_not_read_the_last_final_is_not_waited_for(client: Client) -> None:
    await client.say(AUDIO)
    await client.pass_s(IDLE_S + 1)
    await client.answer()
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
    await client.say(AUDIO)
    await client.say(grpc.aio.EOF)
    for _ in range(5):
        await client.pass_s(IDLE_S + 1)
    assert not client.call.done()


@on_a_clock
async def test_reading_is_watched_from_the_half_close_on(client: Client) -> None:
    """It had read nothing for long before: that counts as little as what it would have had to say."""
    await client.say(FINALIZE)
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
    await client.say(AUDIO)
    await client.say(FINALIZE)
    await client.say(AUDIO)
    await client.say(grpc.aio.EOF)
    await client.pass_s(200)
    client.desk.leases[0].answer()
    client.desk.leases[0].answer()
    await client.settle()
    await client.pass_s(299)
    assert not client.call.done()
    client.reads.set()
    await client.settle()
    assert client.reasons[-1] == pb.FINAL_REASON_FINALIZE
    client.reads.clear()
    await client.answer()
    await client.pass_s(299)
    assert not client.call.done()
    await client.pass_s(2)
    assert "results were not read" in await client.status()

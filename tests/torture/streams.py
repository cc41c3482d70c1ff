"""Scripts of streams whose finals are known, and clients that follow them well or badly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc.aio
import websockets
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clients.pacing import duration_s
from tests.support.audio import RATE, cut, speechlike
from tests.support.process import resident_bytes
from tests.support.rpc import Stub, audio, config, finalize
from ws_bridge.call import Call, Outcome  # with the service's statuses; grpc.aio makes some up

HOLD_S = 120.0
"""Nothing that a service promises takes longer: whoever waits so long was left hanging."""
_BY_SERVER = pb.FINAL_REASON_ENDED_BY_SERVER


@dataclass
class Script:
    """Audio in segments, a finalize after each but the last, and the finals a stream gets that is alone."""

    segments: list[bytes]
    finals: list[str] = field(default_factory=list)

    def pieces(self, rng: random.Random) -> Iterator[bytes | None]:
        """Packets of random sizes; None for a finalize."""
        for number, segment in enumerate(self.segments):
            if number:
                yield None
            begin = 0
            while begin < len(segment):
                size = rng.choice((640, 640, 1999, 6400, 64_000))
                yield segment[begin : begin + size]
                begin += size

    def check(self, heard: Sequence[str], *, whole: bool) -> None:
        """Checks the finals of a stream that has ended well, or those before an error; wrong ones raise."""
        right = self.finals if whole else self.finals[: len(heard)]
        assert list(heard) == right, f"heard {heard}, alone it is {self.finals}"


def make_scripts(rng: random.Random, count: int, *, longest_s: float = 2.5) -> list[Script]:
    return [
        Script(
            [
                speechlike(rng.uniform(0.1, longest_s), seed=rng.randrange(2**30))
                for _ in range(rng.choice((1, 1, 1, 2, 3)))
            ]
        )
        for _ in range(count)
    ]


@dataclass
class Behaviour:
    """How a client behaves.

    Attributes:
        pace: seconds of audio a second; 0: as fast as it can.
        stall_s: a pause in the middle.
        leave: "" to stay to the end, "cancel" for a cancelled call, "vanish" for a connection that is dropped.
        deaf_s: reads nothing for so long.
    """

    pace: float = 0.0
    stall_s: float = 0.0
    leave: str = ""
    deaf_s: float = 0.0


def any_behaviour(rng: random.Random) -> Behaviour:
    kind = rng.choice(("fast", "live", "stall", "cancel", "vanish", "deaf"))
    pace = rng.choice((0.0, 1.0, 3.0))
    match kind:
        case "fast":
            return Behaviour()
        case "live":
            return Behaviour(pace=1.0)
        case "stall":
            return Behaviour(pace=pace, stall_s=rng.uniform(0.2, 3.0))
        case "deaf":
            return Behaviour(pace=pace, deaf_s=rng.uniform(0.2, 3.0))
        case _:
            return Behaviour(pace=pace, leave=kind)


class Client:
    """One stream over gRPC.

    Args:
        key: the API key that it shows, "" for none.
    """

    def __init__(
        self, channel: grpc.aio.Channel, script: Script, rng: random.Random, how: Behaviour, key: str = ""
    ) -> None:
        self.channel, self.script, self.rng, self.how = channel, script, rng, how
        self.metadata = credentials(key)

    async def run(self) -> str:
        """How it ended: exact, refused, cancel, vanish, or the code of an error. A wrong text raises."""
        stub: Stub = asr_pb2_grpc.SpeechServiceStub(self.channel)
        call = Call(stub, self.metadata)
        try:
            async with asyncio.timeout(HOLD_S):
                return await self._talk(call)
        except TimeoutError:
            raise AssertionError(f"a stream hung for {HOLD_S:g} s: {self.how}") from None
        finally:
            call.cancel()

    async def _talk(self, call: Call) -> str:
        await call.write(config())
        if not await call.admitted():
            outcome = await call.outcome()
            assert not outcome.ok, "neither admitted nor refused"
            return _named(outcome)
        sending = asyncio.create_task(self._send(call))
        try:
            await asyncio.sleep(self.how.deaf_s)
            finals = [response.result async for response in call.responses() if response.result.is_final]
        except asyncio.CancelledError:
            if not self.how.leave:  # the call was cancelled, by us
                raise
            return self.how.leave
        finally:
            left = sending.done() and not sending.cancelled() and sending.result()
            sending.cancel()
        if left:
            return self.how.leave
        outcome = await call.outcome()
        heard = [final.text for final in finals if final.final_reason != _BY_SERVER]
        self.script.check(heard, whole=outcome.ok)
        return "exact" if outcome.ok else _named(outcome)

    async def _send(self, call: Call) -> bool:
        """Whether it left early."""
        pieces = list(self.script.pieces(self.rng))
        middle = self.rng.randrange(len(pieces))
        for number, piece in enumerate(pieces):
            if number == middle:
                await asyncio.sleep(self.how.stall_s)
                if self.how.leave == "cancel":
                    call.cancel()
                    return True
                if self.how.leave == "vanish":
                    await self.channel.close()
                    return True
            if not await call.write(finalize() if piece is None else audio(piece)):
                return False  # the reader learns why
            if piece is not None and self.how.pace:
                await asyncio.sleep(duration_s(piece, RATE) / self.how.pace)
        await call.half_close()
        return False


def _named(outcome: Outcome) -> str:
    """An error as it counts. Each kind has to come with what is promised for it."""
    code = next(code for code in grpc.StatusCode if code.value[0] == outcome.number)
    if code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return code.name.lower()
    details = Status.FromString(outcome.details).details
    assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in details), "refused without a time to come back"
    return "refused"


async def over_websocket(url: str, script: Script, pace: float, key: str = "") -> str:
    """A stream over the bridge: exact, lost (connection dropped without a word), or the code of its error."""
    heard: list[str] = []
    init = {"op": "init", "sid": "t", "sr": 16_000, "interim": False, "details": True}
    headers = {"Authorization": f"Bearer {key}"} if key else None
    try:
        async with asyncio.timeout(HOLD_S), websockets.connect(url, additional_headers=headers) as socket:

            async def send() -> None:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await socket.send(json.dumps(init))
                    for number, segment in enumerate(script.segments):
                        if number:
                            await socket.send(json.dumps({"op": "finalize"}))
                        for packet in cut(segment, 3200):
                            await socket.send(packet)
                            await asyncio.sleep(0.1 / pace)
                    await socket.send(json.dumps({"op": "close", "sid": "t"}))

            sending = asyncio.create_task(send())
            try:
                async for message in socket:
                    said = json.loads(message)
                    if said["op"] == "error":
                        script.check(heard, whole=False)
                        return str(said["code"])
                    if said["op"] == "final" and said["reason"] != "ended_by_server":
                        heard.append(said["text"])
            finally:
                sending.cancel()
    except (websockets.ConnectionClosed, websockets.InvalidHandshake, OSError):
        return "lost"
    except TimeoutError:
        raise AssertionError(f"a WebSocket stream hung for {HOLD_S:g} s") from None
    script.check(heard, whole=True)
    return "exact"


def credentials(key: str) -> tuple[tuple[str, str], ...]:
    """Metadata that shows an API key; none for ""."""
    return (("authorization", f"Bearer {key}"),) if key else ()


async def serving(target: str) -> bool:
    async with grpc.aio.insecure_channel(target) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=10
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def learn(target: str, scripts: list[Script], key: str = "") -> None:
    """Notes what each script's finals are on a service that does nothing else."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Stub = asr_pb2_grpc.SpeechServiceStub(channel)
        for script in scripts:
            pieces = script.pieces(random.Random(0))
            requests = [config(), *(finalize() if piece is None else audio(piece) for piece in pieces)]
            call = stub.Recognize(iter(requests), metadata=credentials(key))
            answers = [response async for response in call]
            script.finals = [answer.result.text for answer in answers if answer.result.is_final]
            assert len(script.finals) == len(script.segments)


class Watch:
    """What a service says of itself at its metrics port."""

    def __init__(self, port: int, pid: int) -> None:
        self._url, self._pid = f"http://127.0.0.1:{port}", pid

    async def metric(self, name: str) -> float:
        text = await asyncio.to_thread(self._fetch)
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, f"no {name} in the metrics"
        return float(found[1])

    def _fetch(self) -> str:
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=20) as page:
            return str(page.read().decode())

    def resident_mb(self) -> float:
        return resident_bytes(self._pid) / 2**20

    async def until_empty(self) -> None:
        """Returns once no stream and no slot is taken; they come back without being asked for."""
        for name in ('asr_slots{state="leased"}', "asr_streams_active"):
            await self.until(name, lambda taken: taken == 0)

    async def until(self, name: str, wanted: Callable[[float], bool]) -> None:
        """Returns once a metric has a value that is wanted."""
        async with asyncio.timeout(HOLD_S):
            while not wanted(await self.metric(name)):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)


def shown(outcomes: Counter[str]) -> dict[str, int]:
    return dict(sorted(outcomes.items()))

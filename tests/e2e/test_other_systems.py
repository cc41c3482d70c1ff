"""Service and bridge without what Python has on Linux alone, as on macOS, where they are not run in this project."""

from __future__ import annotations

from tests.support.audio import cut, speechlike
from tests.support.bridge import CLOSE, INIT, Bridge, talk
from tests.support.process import AsrService

PCM = speechlike(2.0, seed=4)
MACOS = ("tests.support.other_systems", "darwin")


class ServiceAsOnMacos(AsrService):
    module = (*MACOS, "asr_service")


class BridgeAsOnMacos(Bridge):
    module = (*MACOS, "ws_bridge")


async def test_they_serve_without_what_only_linux_has() -> None:
    with (
        ServiceAsOnMacos(ASR_FRONT_ENDS=2, ASR_MAX_STREAMS=4) as service,
        BridgeAsOnMacos(service.target) as bridge,
    ):
        assert (await talk(bridge, [INIT, *cut(PCM, 640), CLOSE])).final["text"]
        await bridge.ready()
        for process in (bridge, service):
            process.signal()
            assert process.wait() == 0
    assert any("processes can share a port on Linux only; there is one" in line for line in service.lines)

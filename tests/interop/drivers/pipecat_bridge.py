"""Drives Pipecat's services for Deepgram and OpenAI against the bridge, in the pipelines of `pipecat_service.py`."""

from __future__ import annotations

import asyncio
from typing import Any

from common import Order, answer, order
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat_service import drive


def service(given: Order) -> Any:
    """A service of the kind that the mode names."""
    if given.mode.startswith("deepgram"):
        # Finals of pauses would be there before the one that is asked for.
        endpointing = False if given.mode == "deepgram-finalize" else None
        return DeepgramSTTService(
            api_key="none",
            base_url=f"ws://{given.target}",
            sample_rate=given.rate,
            settings=DeepgramSTTService.Settings(endpointing=endpointing),
        )
    if given.mode == "openai-live":
        return OpenAIRealtimeSTTService(
            api_key="none", base_url=f"ws://{given.target}/v1/realtime", sample_rate=given.rate
        )
    return OpenAISTTService(api_key="none", base_url=f"http://{given.target}/v1", sample_rate=given.rate)


async def main(given: Order) -> None:
    """All files at the same time, or one after the other."""
    detector, at_once = given.mode != "deepgram-live", given.mode == "openai-file"
    drives = [drive(service(given), given, name, detector=detector, at_once=at_once) for name in given.files]
    # Frames that come all at once keep the pipelines busy: one file after the other, as with the other segments.
    heard = [await one for one in drives] if at_once else await asyncio.gather(*drives)
    package = "deepgram-sdk" if given.mode.startswith("deepgram") else "openai"
    answer(list(heard), "pipecat-ai", package)


if __name__ == "__main__":
    asyncio.run(main(order()))

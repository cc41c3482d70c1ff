"""Writes the golden tokens and their audio; see the package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from asr_service.core.model_settings import ModelSettings
from asr_service.model.loading import assemble
from asr_service.model.reading import read_model
from testbed.golden import AUDIO, MODEL, RATE, TOKENS, Golden, Stepped, recordings, step_streams

_FILES = ("seen-45", "seen-01", "unseen-44")
_LOOK_AHEADS = ((70, 13), (70, 6), (70, 1), (70, 0))
_BOOSTED = ("half past five", "november")


def _mulaw(samples: np.ndarray) -> np.ndarray:
    """Encodes samples of 16 bits by ITU-T G.711."""
    magnitude = np.minimum(np.abs(samples.astype(np.int32)), 32_635) + 132
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 15
    coded: np.ndarray = ~((samples < 0) * 128 | exponent << 4 | mantissa) & 255
    return coded.astype(np.uint8)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    stored: dict[str, Any] = {}
    for name in _FILES:
        samples, rate = soundfile.read(folder / f"{name}.flac", dtype="int16")
        if rate != RATE:
            raise SystemExit(f"{name} has {rate} samples a second, not {RATE}")
        stored[name] = _mulaw(samples)
    np.savez_compressed(AUDIO, **stored)
    cpu = torch.device("cpu")
    parts = read_model(MODEL, cpu)
    found = []
    for decoder in ("rnnt", "ctc"):
        for look_ahead in _LOOK_AHEADS:
            for boosted in ((), _BOOSTED):
                one = Golden(look_ahead, decoder, boosted, [])
                model = assemble(parts, ModelSettings(MODEL, look_ahead, decoder), cpu, 8)
                streams = [Stepped(audio, one.boosts) for audio in recordings()]
                tokens = step_streams(model, streams, together=8)
                found.append(
                    {"look_ahead": look_ahead, "decoder": decoder, "boosted": boosted, "tokens": tokens}
                )
    TOKENS.write_text("[\n" + ",\n".join(json.dumps(one) for one in found) + "\n]\n")


if __name__ == "__main__":
    main()

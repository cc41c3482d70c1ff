"""flite on the command line: samples of its built-in voices, with phone times from its phone durations."""

from __future__ import annotations

import io
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from demo_model.espeak import Spoken

VOICES = ("kal", "kal16", "awb", "rms", "slt")


def say(text: str, voice: str, stretch: float = 1.0, pitch: float | None = None) -> Spoken:
    """Speak `text`; `stretch` > 1 is slower, `pitch` the mean in Hz (None: the voice's own)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.wav"
        command = ["flite", "-psdur", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}"]
        if pitch is not None:
            command += ["--setf", f"int_f0_target_mean={pitch:.1f}"]
        done = subprocess.run(
            [*command, "-t", text, "-o", str(path)], check=True, capture_output=True, text=True
        )
        audio, rate = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32")
    phonemes: list[tuple[str, float]] = []
    start = 0.0
    for item in done.stdout.split():  # name:end in seconds
        name, _, end = item.rpartition(":")
        phonemes.append((f"flite:{name}", 1000.0 * start))
        start = float(end)
    return Spoken(np.ascontiguousarray(audio), int(rate), (), tuple(phonemes))

"""Runs sherpa-onnx over a set of recordings, in its own environment: `bench.peers` starts it; numpy is all else there.

    python bench/peers_sherpa.py FOLDER AUDIO.npz BATCH CHUNK_SAMPLES THREADS

Prints one line of JSON: texts, seconds of work, seconds of audio.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import sherpa_onnx

RATE = 16_000
# The recogniser's window must be filled once more for the last words to come out.
TAIL = np.zeros(RATE, dtype=np.float32)


def transcribe(
    recognizer: sherpa_onnx.OnlineRecognizer, audios: list[np.ndarray[Any, Any]], batch: int, chunk: int
) -> list[str]:
    """`batch` streams at a time, each fed a chunk a turn; those that are ready are decoded together."""
    texts = [""] * len(audios)
    waiting = list(range(len(audios)))[::-1]
    live: dict[int, tuple[Any, int]] = {}
    while waiting or live:
        while waiting and len(live) < batch:
            live[waiting.pop()] = (recognizer.create_stream(), 0)
        ending = []
        for number, (stream, place) in list(live.items()):
            piece = audios[number][place : place + chunk]
            stream.accept_waveform(RATE, piece)
            live[number] = (stream, place + len(piece))
            if place + len(piece) >= len(audios[number]):
                stream.accept_waveform(RATE, TAIL)
                stream.input_finished()
                ending.append(number)
        while ready := [stream for stream, _ in live.values() if recognizer.is_ready(stream)]:
            recognizer.decode_streams(ready)
        for number in ending:
            texts[number] = recognizer.get_result(live.pop(number)[0])
    return texts


def main() -> None:
    """Runs the command line."""
    folder, batch, chunk, threads = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    with np.load(sys.argv[2]) as file:
        audios = [file[name] for name in sorted(file.files)]
    recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(folder / "tokens.txt"), encoder=str(folder / "encoder.onnx"),
        decoder=str(folder / "decoder.onnx"), joiner=str(folder / "joiner.onnx"), num_threads=threads,
    )  # fmt: skip
    transcribe(recognizer, [audio[: 2 * RATE] for audio in audios[:batch]], batch, chunk)  # warms up
    begun = time.perf_counter()
    texts = transcribe(recognizer, audios, batch, chunk)
    seconds = time.perf_counter() - begun
    print(json.dumps({"texts": texts, "seconds": seconds, "audio": sum(map(len, audios)) / RATE}))


if __name__ == "__main__":
    main()

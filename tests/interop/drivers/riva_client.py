"""Drives NVIDIA's riva.client: `ASRService` as published, streaming and offline, and its helpers."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import riva.client
from common import Heard, Order, answer, order, paced, packets, samples

CHUNK_FRAMES = 1600


def config(**fields: Any) -> riva.client.RecognitionConfig:
    """As NVIDIA's own scripts fill it."""
    return riva.client.RecognitionConfig(
        language_code="en-US",
        max_alternatives=1,
        profanity_filter=False,
        enable_automatic_punctuation=True,
        verbatim_transcripts=True,
        enable_word_time_offsets=True,
        **fields,
    )


def collect(heard: Heard, responses: Any) -> float:
    """Takes all responses; when the last final came."""
    at = 0.0
    for response in responses:
        for result in response.results:
            best = result.alternatives[0]
            if result.is_final:
                at = time.monotonic()
                heard.finals.append(best.transcript)
                heard.words += [(word.word, word.start_time, word.end_time) for word in best.words]
            else:
                heard.interims.append(best.transcript)
    return at


def live(service: riva.client.ASRService, name: str, path: str) -> Heard:
    """Raw audio at the pace of a speaker, then the end of the input."""
    heard = Heard(name)
    ended = [0.0]

    def audio() -> Any:
        yield from paced(packets(samples(path)))
        ended[0] = time.monotonic()

    raw = config(
        encoding=riva.client.AudioEncoding.LINEAR_PCM, sample_rate_hertz=16_000, audio_channel_count=1
    )
    streaming = riva.client.StreamingRecognitionConfig(config=raw, interim_results=True)
    last = collect(heard, service.streaming_response_generator(audio(), streaming))
    heard.waited_s = last - ended[0]
    return heard


def file(service: riva.client.ASRService, name: str, path: str) -> Heard:
    """The file iterator, which sends the WAV header along and says nothing of the audio's format."""
    heard = Heard(name)
    streaming = riva.client.StreamingRecognitionConfig(config=config(), interim_results=True)
    riva.client.add_word_boosting_to_config(streaming, ["antiberta"], 20.0)
    riva.client.add_endpoint_parameters_to_config(streaming, -1, -1.0, 320, -1, -1.0, -1.0)
    riva.client.add_custom_configuration_to_config(streaming, "enable_vad_endpointing:true")
    with riva.client.AudioChunkFileIterator(path, CHUNK_FRAMES) as chunks:
        collect(heard, service.streaming_response_generator(chunks, streaming))
    return heard


def printed(service: riva.client.ASRService, name: str, path: str) -> Heard:
    """What `print_streaming` makes of the responses, as in the package's scripts."""
    streaming = riva.client.StreamingRecognitionConfig(config=config(), interim_results=True)
    riva.client.add_audio_file_specs_to_config(streaming, path)
    output = io.StringIO()
    with riva.client.AudioChunkFileIterator(path, CHUNK_FRAMES) as chunks:
        responses = service.streaming_response_generator(chunks, streaming)
        riva.client.print_streaming(responses, output_file=output, additional_info="confidence")
    lines = output.getvalue().splitlines()
    return Heard(name, finals=[line[3:] for line in lines if line.startswith("## ")])


def offline(service: riva.client.ASRService, name: str, path: str) -> Heard:
    """The whole file in one call."""
    heard = Heard(name)
    whole = config()
    riva.client.add_audio_file_specs_to_config(whole, path)
    response = service.offline_recognize(Path(path).read_bytes(), whole)
    for result in response.results:
        best = result.alternatives[0]
        heard.finals.append(best.transcript)
        heard.words += [(word.word, word.start_time, word.end_time) for word in best.words]
    return heard


def main(given: Order) -> None:
    """All files at the same time, each in a thread."""
    keys = [["authorization", "Bearer one"], ["authorization", "Bearer two"], ["function-id", "1598d209"]]
    service = riva.client.ASRService(riva.client.Auth(uri=given.target, use_ssl=False, metadata_args=keys))
    drive = {"live": live, "file": file, "printed": printed, "offline": offline}[given.mode]
    with ThreadPoolExecutor(len(given.files)) as pool:
        heard = list(pool.map(lambda item: drive(service, *item), given.files.items()))
    answer(heard, "nvidia-riva-client", "grpcio", "protobuf")


if __name__ == "__main__":
    main(order())

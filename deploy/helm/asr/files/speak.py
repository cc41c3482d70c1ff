"""Says a bundled clip to a service and prints what was heard: speak.py HOST:PORT. `helm test` runs it in the image.

ASR_API_KEY is shown where it is set; ASR_GRPC_CA, a PEM file, has it speak TLS. Exit code 1 and the reason if there is
no final.
"""

import os
import sys
import wave
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import grpc
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

PATIENCE_S = 120.0


def requests() -> Iterator[pb.RecognizeRequest]:
    """Yields a config and the clip."""
    clips = resources.files("asr_service") / "assets" / "clips"
    with resources.as_file(clips / "clip1.wav") as path, wave.open(str(path)) as clip:
        yield pb.RecognizeRequest(config=pb.RecognitionConfig(sample_rate_hertz=clip.getframerate()))
        while packet := clip.readframes(clip.getframerate() // 10):
            yield pb.RecognizeRequest(audio=packet)


def main(target: str) -> int:
    """Recognizes the clip."""
    authority, key = os.environ.get("ASR_GRPC_CA"), os.environ.get("ASR_API_KEY")
    if authority:
        credentials = grpc.ssl_channel_credentials(Path(authority).read_bytes())
        channel = grpc.secure_channel(target, credentials)
    else:
        channel = grpc.insecure_channel(target)
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    heard = []
    with channel:
        stub = asr_pb2_grpc.SpeechServiceStub(channel)
        try:
            answers = stub.Recognize(requests(), metadata=metadata, timeout=PATIENCE_S, wait_for_ready=True)
            heard = [answer.result.text for answer in answers if answer.result.is_final]
        except grpc.RpcError as error:
            print(f"{target}: {error.code().name}: {error.details()}")
            return 1
    print(f"{target} heard: {' '.join(heard)}" if heard else f"{target}: no final came")
    return 0 if heard else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

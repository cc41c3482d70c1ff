"""A client that runs in a container: the image's own Python has all that it imports."""

PROGRAM = """
import sys
import grpc
from asr.v1 import asr_pb2 as pb
from asr.v1 import asr_pb2_grpc

def requests():
    yield pb.RecognizeRequest(config=pb.RecognitionConfig(sample_rate_hertz=int(sys.argv[1])))
    pcm = sys.stdin.buffer.read()
    for at in range(0, len(pcm), 3200):
        yield pb.RecognizeRequest(audio=pcm[at : at + 3200])

with grpc.insecure_channel("localhost:50051") as channel:
    answers = asr_pb2_grpc.SpeechServiceStub(channel).Recognize(requests(), timeout=60)
    print(" ".join(answer.result.text for answer in answers if answer.result.is_final))
"""
"""Streams the samples of its standard input, at the rate that its argument says, and prints the words."""

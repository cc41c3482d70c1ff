"""Generated stubs of the `asr` protocol: import `asr_pb2` and `asr_pb2_grpc` from a version (`asr.v1`)."""

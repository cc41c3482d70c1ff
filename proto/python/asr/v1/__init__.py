"""Version 1 of the protocol: messages in `asr_pb2`, client and server classes in `asr_pb2_grpc`."""

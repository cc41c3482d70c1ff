"""A WebSocket bridge to the speech service: small JSON messages outside, one gRPC stream per connection inside.

It imports the generated stubs and `asr_common`, and nothing of the service itself.
"""

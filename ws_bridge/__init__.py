"""A WebSocket door to the speech service: small JSON messages outside, one gRPC stream per connection inside.

Imports the generated stubs and nothing of the service itself.
"""

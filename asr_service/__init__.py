"""Streaming speech recognition service: see docs/architecture.md for the way of a packet."""

__version__ = "0.1.0"

"""Clients of the service, to use and to copy: audio files over WebSocket and gRPC, many at once, a microphone.

The files of this folder import each other, the stubs and public packages only. Copy them as a folder of the same name:
each client is a script that finds the others beside it, and `transcribe/` a program, `python -m clients.transcribe`.
`loadgen/` and `demo/` are programs of this project.
"""

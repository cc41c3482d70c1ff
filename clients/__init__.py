"""Clients of the service: files, microphone, load generator. They import the stubs only."""

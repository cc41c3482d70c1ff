"""Encoder frames to tokens."""

"""Decoders, which make tokens of encoder frames, and the boosting of phrases in them."""

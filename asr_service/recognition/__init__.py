"""One stream, pure: bytes to samples, tokens to text, where utterances end."""

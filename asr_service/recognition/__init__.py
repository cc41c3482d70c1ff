"""The recognition of one stream, without I/O: bytes to samples, tokens to text, the ends of utterances."""

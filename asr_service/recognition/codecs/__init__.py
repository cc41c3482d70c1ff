"""Decodes compressed audio as it comes: FLAC, and Opus in Ogg or WebM. Pure; PyAV is imported on first use."""

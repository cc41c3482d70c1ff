"""Transcribes files: many at once, as text, JSON and captions."""

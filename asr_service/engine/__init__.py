"""The engine, which steps all streams of one model on one device: its process, its slots, its scheduler."""

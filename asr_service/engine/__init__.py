"""The engine: one model on one device, in a process of its own, and what steps its streams."""

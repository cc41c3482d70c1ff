"""The compiled loops of the CPU step."""

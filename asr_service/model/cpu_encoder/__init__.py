"""The encoder step on a CPU, as compiled loops."""

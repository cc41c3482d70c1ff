"""NeMo's own step, to compare with."""

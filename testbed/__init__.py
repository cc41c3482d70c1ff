"""Holds what tests and benchmarks share: models of random weights, servers as processes, a cheap load generator."""

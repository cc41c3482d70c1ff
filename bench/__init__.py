"""Holds the benchmarks: each prints a table, writes JSON, and measures against a named baseline in the same run."""

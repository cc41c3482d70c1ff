"""Faults and load against real processes over real sockets, for as long as is asked for.

`make torture` runs everything in full, `pytest tests/torture` in short. Each case takes how long and a seed, and
returns figures; what does not hold raises AssertionError with the seed to run it again.
"""

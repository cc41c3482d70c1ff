"""Numbers of the exponential that vectors and compiled loops compute in the same way (after Cephes' expf).

x = n ln 2 + f with n the nearest whole number: e^x = 2^n e^f, and e^f is 1 + f + f^2 P(f) on [-ln 2 / 2, ln 2 / 2].
"""

from __future__ import annotations

import numpy as np

LOWEST, HIGHEST = np.float32(-87.0), np.float32(88.0)
"""Inputs are limited to this: beyond it 2^n is no normal float32."""
LOG2_E = np.float32(1.44269504088896341)
# ln 2 in two parts: n times the first one is exact.
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
COEFFICIENTS = tuple(
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
"""Of P, the highest power first."""
EXPONENT_SHIFT, EXPONENT_BIAS = 23, 127
"""How far up a float32's exponent begins, and what 2^0 has there."""

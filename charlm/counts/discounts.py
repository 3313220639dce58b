"""How much of a count is given to grams not seen: three discounts, from counts of counts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
FALLBACK = (0.5, 1.0, 1.5)
"""Where a text has too few grams of a count for the formula; each is half of the count it is for."""


def discounts(counts: NDArray[np.integer[Any]]) -> Numbers:
    """What is taken from a count of 0, 1, 2, and of 3 or more: (4,), the first of them 0.

    With n_i grams of count i and Y = n_1 / (n_1 + 2 n_2): D_i = i - (i + 1) Y n_(i+1) / n_i, for 3 or
    more i = 3 (Chen and Goodman 1998, "An empirical study of smoothing techniques for language
    modeling", Harvard TR-10-98, equations 26 and 27). Where a divisor is 0, or the result not above 0, it says
    nothing, and half of i is taken.
    """
    n = np.bincount(np.minimum(counts, 5).astype(np.int64), minlength=6)[:5].astype(np.float64)
    found = np.array([0.0, *FALLBACK])
    if n[1] == 0:
        return found
    y = n[1] / (n[1] + 2 * n[2])
    for i in (1, 2, 3):
        if n[i] > 0 and (discount := i - (i + 1) * y * n[i + 1] / n[i]) > 0:
            found[i] = discount
    return found

"""Recent n-grams in C (recent_ngrams.c): corrects distributions by what followed them. Shapes: N rows, V symbols."""

from ctypes import c_double
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.native.library import Library, Pointer, Size

Integers = NDArray[np.int64]
Floats32 = NDArray[np.float32]


def add_recent(
    library: Library,
    logp: Floats32,
    ids: Integers,
    lows: Integers,
    ats: Integers,
    *,
    n_symbols: int,
    shortest: int,
    strength: float,
) -> None:
    """Correct log-probabilities (N, V) of the ids at `ats` (N,), whose windows begin at `lows` (N,), in place."""
    N, V = logp.shape
    arrays = (ids, lows, ats)
    assert logp.dtype == np.float32 and logp.flags.c_contiguous and n_symbols <= V
    assert all(array.dtype == np.int64 and array.flags.c_contiguous for array in arrays)
    assert len(lows) == len(ats) == N
    if not N:
        return
    assert lows.min() >= 0 and ats.max() <= len(ids), "the kernel reads between them"
    assert 1 <= shortest <= 3
    addresses = [
        array.__array_interface__["data"][0] for array in (*arrays, logp)
    ]  # faster than `ctypes.data`
    _kernel(library)(*addresses[:3], N, V, n_symbols, shortest, strength, addresses[3])


@cache  # looking it up takes as long as a step of sampling
def _kernel(library: Library) -> Any:
    return library.function("recent_ngrams", "exact", *[Pointer] * 3, *[Size] * 4, c_double, Pointer)

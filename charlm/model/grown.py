"""The weights of a model whose vocabulary has grown: the old rows kept, rows for what is new added.

Axes: C width, V symbols before, N of them new.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

EMBEDDING, READ = "embedding.weight", "prior.read"
"""What has a row, or a column, for each symbol; n-grams are found by ids, which stay."""


def grown_weights(weights: Mapping[str, Tensor], n_symbols: int) -> dict[str, Tensor]:
    """The same for `n_symbols` symbols, of which the last are new.

    A new symbol begins with the mean of the old rows (V, C), which are those of the head too: its logit
    is the mean of the old ones, so all N together take at most N / (V + N) of the probability, since a
    geometric mean is never above the arithmetic one; and they take far less where the model is sure of
    anything. The first layer is told nothing of what the counts say of it, as before the first step.
    """
    rows, grown = weights[EMBEDDING], dict(weights)
    new = n_symbols - len(rows)
    assert new >= 0, "symbols are never taken away"
    grown[EMBEDDING] = torch.cat((rows, rows.mean(dim=0, keepdim=True).expand(new, -1)))
    if READ in weights:
        read = weights[READ]
        grown[READ] = torch.cat((read, read.new_zeros(read.shape[0], new)), dim=1)
    return grown

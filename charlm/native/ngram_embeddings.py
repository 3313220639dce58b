"""N-gram embeddings looked up and summed in C (ngram_embeddings.c).

Shapes: B texts, T positions, M = B T, O n-gram lengths, C width.
"""

import ctypes

import torch
from torch import Tensor

from charlm.native.library import Library, Pointer, Size
from charlm.native.tensors import address


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, Size) for name in ("B", "T", "O", "C", "rows", "symbols")),
        ("dropout", ctypes.c_float),
    ]


def sum_ngrams(
    library: Library,
    table: Tensor,
    ids: Tensor,
    before: Tensor,
    docs: Tensor | None,
    draws: Tensor | None,
    *,
    n_symbols: int,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Return the rows (M, O) of the n-grams that end at each of ids (B, T), and the sums (B, T, C) of their embeddings.

    `before` (B, O) and `docs` (B, T) as in NgramEmbeddings. `draws` (B, T, O): uniform random numbers; those below
    `dropout` drop their n-gram. `table` is (O rows + 1, C).
    """
    (B, T), O, C = ids.shape, before.shape[1], table.shape[1]  # noqa: E741
    assert table.dtype == torch.float32 and len(before) == B
    assert docs is None or docs.shape == ids.shape
    assert draws is None or draws.shape == (B, T, O)
    shape = _Shape(B, T, O, C, (len(table) - 1) // O, n_symbols, dropout)
    index, sums = torch.empty(B * T, O, dtype=torch.int64), torch.empty(B, T, C)
    ids, before = (tensor.to(torch.int64).contiguous() for tensor in (ids, before))
    docs = None if docs is None else docs.to(torch.int64).contiguous()
    call = library.function("ngram_embeddings", "fast", *[Pointer] * 8)
    tensors = (table, ids, before, docs, draws, index, sums)
    call(ctypes.byref(shape), *map(address, tensors))
    return index, sums

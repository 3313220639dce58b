"""Muon: the update of a matrix made orthogonal, so that every direction moves equally far.

Axes: N matrices, R rows, C columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(matrices: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """About U V' for each matrix U S V' of (N, R, C): its singular values brought near 1.

    Newton and Schulz's iteration with the coefficients of Jordan et al. 2024 (Muon), whose singular
    values end between 0.7 and 1.2, all matrices of one shape at once. With `dtype` computed in that:
    where bf16 is faster its rounding does no harm, since the directions need not be exact.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype or x.dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (N, R, R)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def orthogonalised_parts(
    updates: Sequence[Tensor], parts: Sequence[Sequence[int]], dtype: torch.dtype | None = None
) -> list[Tensor]:
    """The same for matrices of several shapes, each cut into the rows that are matrices of their own.

    All parts of one shape, or of its transpose, are done together. The results have the updates' shapes.
    """
    pieces = [
        piece
        for update, rows in zip(updates, parts, strict=True)
        for piece in torch.split(update, list(rows))
    ]
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, piece in enumerate(pieces):
        groups.setdefault(tuple(sorted(piece.shape)), []).append(i)
    done: list[Tensor] = list(pieces)
    for (low, _), members in groups.items():
        flat = [pieces[i] if pieces[i].shape[0] == low else pieces[i].mT for i in members]
        for i, found in zip(members, orthogonalised(torch.stack(flat), dtype), strict=True):
            done[i] = found if pieces[i].shape[0] == low else found.mT
    counts = [len(rows) for rows in parts]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [torch.cat(done[s : s + n]) if n > 1 else done[s] for s, n in zip(starts, counts, strict=True)]

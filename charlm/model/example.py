"""A tiny computation with real numbers, as a table to look at: what `charlm explain` runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Row = tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """What was computed, in a sentence, and what came out."""

    says: str
    header: Row
    rows: tuple[Row, ...]


def some(*shape: int) -> Tensor:
    """Normal random numbers in float64, the same each time."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def table(
    says: str, numbers: Tensor, rows: str, columns: str, names: Sequence[str] = (), first: int = 0
) -> Example:
    """The numbers (R, C), with what a row and a column are called; columns are counted from `first`."""
    header = (rows, *(f"{columns} {first + i}" for i in range(numbers.shape[1])))
    named = names or [str(i) for i in range(numbers.shape[0])]
    pairs = zip(named, numbers.tolist(), strict=True)
    body = tuple((name, *(f"{value:.2f}" for value in row)) for name, row in pairs)
    return Example(says, header, body)

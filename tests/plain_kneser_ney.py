"""Kneser-Ney by its formulas, over dictionaries: slow, and short enough to be read."""

from collections import Counter, defaultdict
from collections.abc import Sequence

Gram = tuple[int, ...]
BEFORE = -1  # what stands before the text; any below 0 is no symbol


class Plain:
    """p(symbol | context) from occurrences (context, symbol) at the positions given; all by default."""

    def __init__(
        self,
        ids: Sequence[int],
        n_symbols: int,
        order: int,
        positions: Sequence[int] | None = None,
        discounts: list[list[float]] | None = None,
    ) -> None:
        padded = [BEFORE] * order + [int(i) for i in ids]
        positions = range(len(ids)) if positions is None else positions
        counts = Counter(tuple(padded[i : i + order + 1]) for i in positions)
        self.n_symbols, self.order = n_symbols, order
        self.counts: list[dict[Gram, int]] = [{}] * (order + 1)
        for k in range(order, -1, -1):
            self.counts[k] = {gram: n for gram, n in counts.items() if min(gram) >= 0}
            counts = Counter(gram[1:] for gram in counts)
        self.discounts = discounts or [by_paper(list(level.values())) for level in self.counts]
        self.after: list[dict[Gram, dict[int, int]]] = []
        for level in self.counts:
            after: dict[Gram, dict[int, int]] = defaultdict(dict)
            for gram, n in level.items():
                after[gram[:-1]][gram[-1]] = n
            self.after.append(after)

    def probability(self, context: Gram, symbol: int) -> float:
        context = context[max(0, len(context) - self.order) :]
        below = self.probability(context[1:], symbol) if context else 1 / self.n_symbols
        seen = self.after[len(context)].get(context)
        if not seen:
            return below
        discount = self.discounts[len(context)]
        total = sum(seen.values())
        back = sum(discount[min(n, 3)] for n in seen.values()) / total
        n = seen.get(symbol, 0)
        return (n - discount[min(n, 3)]) / total + back * below


def by_paper(counts: list[int]) -> list[float]:
    """Chen and Goodman's three discounts, or half of 1, 2, 3 where the formulas say nothing."""
    n1, n2, n3, n4 = (sum(count == i for count in counts) for i in (1, 2, 3, 4))
    found = [0.0, 0.5, 1.0, 1.5]
    if n1 == 0:
        return found
    y = n1 / (n1 + 2 * n2)
    formulas = [lambda: 1 - 2 * y * n2 / n1, lambda: 2 - 3 * y * n3 / n2, lambda: 3 - 4 * y * n4 / n3]
    for i, (formula, n) in enumerate(zip(formulas, (n1, n2, n3), strict=True), 1):
        if n and formula() > 0:
            found[i] = formula()
    return found

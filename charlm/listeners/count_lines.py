"""Lines across a chart at what counts of each order come to, named in places where they do not overlap."""

from collections.abc import Sequence
from itertools import pairwise

from charlm.listeners.charts import LABEL_GAP, LEFT, TOP, Frame, Range

CSS = """
.count { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 5; }
"""

Order = tuple[int, float]
"""Characters of context, and the bits per character of counts that look at so many."""


def widened(span: Range, orders: Sequence[Order]) -> Range:
    """The range of a chart, with room for the best of the orders where that at most doubles it."""
    low, high = span
    best = min((bits for _, bits in orders), default=low)
    room = 0.05 * (high - low)
    if low <= best <= high or not low - (high - low) <= best <= high + (high - low):
        return span
    return max(0.0, min(low, best - room)), max(high, best + room)


def drawn(frame: Frame, orders: Sequence[Order]) -> str:
    """The lines that fall within the plot, those of about the same height under one name."""
    parts = []
    for group in _groups(frame, orders):
        for _, bits in group:
            parts.append(f'<path class="count" d="M{LEFT} {frame.down(bits):.1f}H{frame.right:.1f}"/>')
        said = _characters([k for k, _ in group])
        where = f'x="{LEFT + 8}" y="{_place(frame, group[0]):.1f}"'
        parts.append(f'<text class="halo" {where}>counts, {said}</text>\n')
    return "".join(parts)


def outside(frame_y: Range, orders: Sequence[Order]) -> list[str]:
    """What is to be said of the others: `above this chart: counts, 1 character 3.43`."""
    low, high = frame_y
    beyond = {
        "above": [order for order in orders if order[1] > high],
        "below": [order for order in orders if order[1] < low],
    }
    return [
        f"{where} this chart: counts, " + ", ".join(f"{_characters([k])} {bits:.2f}" for k, bits in found)
        for where, found in beyond.items()
        if found
    ]


def _characters(orders: Sequence[int]) -> str:
    """Of one order or several: `3 characters`, `5 to 7 characters`."""
    some = sorted(orders)
    said = ", ".join(map(str, some))
    if len(some) > 1 and all(b == a + 1 for a, b in pairwise(some)):
        said = f"{some[0]} to {some[-1]}"
    return f"{said} character{'s' * (some != [1])}"


def _place(frame: Frame, order: Order) -> float:
    """Where the name of a line stands: above it, and within the plot."""
    return max(frame.down(order[1]) - 5, TOP + 12)


def _groups(frame: Frame, orders: Sequence[Order]) -> list[list[Order]]:
    """Those within the plot from the top down, together where their names would overlap."""
    low, high = frame.y
    groups: list[list[Order]] = []
    for order in sorted((order for order in orders if low <= order[1] <= high), key=lambda order: -order[1]):
        if groups and _place(frame, order) - _place(frame, groups[-1][0]) < LABEL_GAP:
            groups[-1].append(order)
        else:
            groups.append([order])
    return groups

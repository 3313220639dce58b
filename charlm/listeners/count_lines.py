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
        above = frame.down(group[0][1]) - 5
        place = above if above > TOP + 10 else frame.down(group[-1][1]) + 15
        parts.append(f'<text class="halo" x="{LEFT + 8}" y="{place:.1f}">{name(group)}</text>\n')
    return "".join(parts)


def outside(frame_y: Range, orders: Sequence[Order]) -> list[str]:
    """What is to be said of the others: `above this chart: counts, 1 character 3.43`."""
    low, high = frame_y
    beyond = {
        "above": [order for order in orders if order[1] > high],
        "below": [order for order in orders if order[1] < low],
    }
    return [
        f"{where} this chart: " + ", ".join(f"{name([order])} {order[1]:.2f}" for order in found)
        for where, found in beyond.items()
        if found
    ]


def name(group: Sequence[Order]) -> str:
    """Of one order or several: `counts, 3 characters`, `counts, 5 to 7 characters`."""
    orders = sorted(order for order, _ in group)
    said = ", ".join(map(str, orders))
    if len(orders) > 1 and all(b == a + 1 for a, b in pairwise(orders)):
        said = f"{orders[0]} to {orders[-1]}"
    return f"counts, {said} character{'s' * (orders != [1])}"


def _groups(frame: Frame, orders: Sequence[Order]) -> list[list[Order]]:
    """Those within the plot from the top down, together where their names would overlap."""
    low, high = frame.y
    groups: list[list[Order]] = []
    for order in sorted((order for order in orders if low <= order[1] <= high), key=lambda order: -order[1]):
        if groups and frame.down(order[1]) - frame.down(groups[-1][0][1]) < LABEL_GAP:
            groups[-1].append(order)
        else:
            groups.append([order])
    return groups

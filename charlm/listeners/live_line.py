"""One line that shows how far some work is, in any width: what matters least goes first, the time left never."""

import sys
from collections.abc import Callable, Iterator, Sequence
from time import time
from typing import Any

from tqdm import tqdm

from charlm.terminal import bars_disabled

LEAST_CELLS, MOST_CELLS = 6, 40
"""Of the bar."""
DEFAULT_WIDTH = 80


class LiveLine(tqdm):  # type: ignore[type-arg]
    """A tqdm bar on standard error whose line is laid out by `laid_out`, and taken away when it is closed."""

    def __init__(
        self, total: int | None, done: int = 0, *, what: str = "", unit: str = "", **how: Any
    ) -> None:
        """`what` is done; `unit` follows the number done, which is shown where there is one."""
        self.what, self.unit_name = what, unit
        self.pieces: Callable[[], Sequence[str]] = tuple  # figures, the most important one first
        super().__init__(
            total=total,
            initial=done,
            disable=bars_disabled(),
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            **how,
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw it, but not before its delay is over, which tqdm forgets where something is written meanwhile."""
        now = time()
        if msg is not None or not self.delay or now >= self.start_t + self.delay:
            self.last_print_t = now
            super().display(msg, pos)

    def __str__(self) -> str:
        state = self.format_dict
        done, of, elapsed = state["n"], state["total"], state["elapsed"]
        rate = state["rate"] or ((done - state["initial"]) / elapsed if elapsed > 0 else 0)
        left = None if of is None else "?"
        if of is not None and rate and rate > 0:
            left = tqdm.format_interval(max(0, of - done) / rate)
        numbers = f"{done}/{of} {self.unit_name}".rstrip() if self.unit_name and of is not None else ""
        return laid_out(
            width=state["ncols"] or DEFAULT_WIDTH,
            what=self.what,
            share=min(1.0, done / of) if of else None,
            numbers=numbers,
            pieces=list(filter(None, self.pieces())),
            elapsed=tqdm.format_interval(elapsed),
            left=left,
            ascii_only=bool(state.get("ascii")),
        )


def laid_out(
    *,
    width: int,
    what: str = "",
    share: float | None,
    numbers: str = "",
    pieces: Sequence[str] = (),
    elapsed: str,
    left: str | None,
    ascii_only: bool = False,
) -> str:
    """The line in at most `width - 1` cells, since some terminals wrap a line that fills the last one.

    The pieces lose the last first, then all but the last their units; then go the bar, the time passed, and
    the numbers. The share and the time left stay.
    """
    room = max(1, width - 1)
    percent = "" if share is None else f"{100 * share:3.0f}%"
    for shown, bar, times in _arrangements(numbers, pieces, elapsed, left, drawn=share is not None):
        ends = [" ".join(filter(None, (what, percent))), ", ".join(filter(None, shown)), times]
        text = " ".join(filter(None, ends))
        cells = room - len(text) - 3  # the two borders and a space
        if bar and cells >= LEAST_CELLS and share is not None:
            drawn = _bar(share, min(cells, MOST_CELLS), ascii_only)
            return " ".join(filter(None, (ends[0], f"|{drawn}|", *ends[1:])))
        if not bar and len(text) <= room:
            return text
    return (left or percent or what)[:room]


def _arrangements(
    numbers: str, pieces: Sequence[str], elapsed: str, left: str | None, *, drawn: bool
) -> Iterator[tuple[list[str], bool, str]]:
    """What may be shown beside the share, the best first: figures, whether a bar, and the times."""
    times = f"[{elapsed}]" if left is None else f"[{elapsed}<{left}]"
    fewest = min(2, len(pieces))
    kept = [list(pieces[:n]) for n in range(len(pieces), fewest - 1, -1)]
    without = [piece.partition(" bits")[0] for piece in pieces[:fewest]]
    kept += [[*without[:-1], *pieces[fewest - 1 : fewest]], without]
    for some in kept:
        yield [numbers, *some], drawn, times
    short = f"[{elapsed}]" if left is None else f"{left} left"
    bare = numbers.split(" ")[0]
    for some in (*kept[-2:], without[:1], []):
        yield [numbers, *some], False, times
        yield [bare, *some], False, times
        yield [bare, *some], False, short
    yield [], False, short


def _bar(share: float, cells: int, ascii_only: bool) -> str:
    if ascii_only:
        return ("#" * int(share * cells)).ljust(cells)
    eighths = int(share * cells * 8)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()).ljust(cells)

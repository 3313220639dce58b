"""How a text is divided: what is trained on, held out, kept for the test, or left out between them.

Numbers are of symbols kept (characters and ends of documents). Every one belongs to exactly one part.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from charlm import files
from charlm.config import TextConfig
from charlm.randomness import mix, uniform
from charlm.text.codes import AT_ONCE, IN_MEMORY, Codes, Spool
from charlm.text.vocabulary import END_POINT

PARTS = ("train", "held_out", "test")
LEFT_OUT = "left_out"
Span = tuple[int, int]  # the first symbol and the one after the last
Spans = dict[str, list[Span]]  # of each part
MOST_STRETCHES, STRETCH = 20, 20_000
"""Blocks are held out from so many stretches of the text, or one of every so many symbols of a short one."""
GAP, GAP_SHARE = 512, 8
"""A gap is so long, the longest block that is chosen for a model, but at most such a part of what it guards."""


def tail(n: int, n_all: int, config: TextConfig) -> Spans:
    """Training, held out and test, one after another; or held out what comes after n, a text of its own."""
    val, test = config.val, config.test
    own = config.val_file is not None
    n_seen = int(round(n * (1 - test), 6)) if test else n  # 1 - 0.05 - 0.05 is less than 0.9 to a machine
    n_train = n_seen if own else int(round(n * (1 - val - test), 6)) if test else int(n * (1 - val))
    held_out = (n, n_all) if own else (n_train, n_seen)
    return {"train": [(0, n_train)], "held_out": [held_out], "test": [(n_seen, n)], LEFT_OUT: []}


def interleaved(n: int, config: TextConfig) -> Spans:
    """Of each of some stretches the end is held out, with a gap on both sides that no part has."""
    spans: Spans = {name: [] for name in (*PARTS, LEFT_OUT)}
    stretches = max(1, min(MOST_STRETCHES, n // STRETCH))
    for i in range(stretches):
        start, end = i * n // stretches, (i + 1) * n // stretches
        room = int((end - start) * (1 - config.val - config.test))
        after = end  # laid out backwards
        for name, share in (("test", config.test), ("held_out", config.val)):
            size = int((end - start) * share)
            gap = min(GAP, min(size, room) // GAP_SHARE)
            for part, length in ((LEFT_OUT, gap if after < n else 0), (name, size)):
                spans[part].append((after - length, after))
                after -= length
        gap = min(GAP, min(end - after, room) // GAP_SHARE)
        spans[LEFT_OUT].append((after - gap, after))
        spans["train"].append((start, after - gap))
    return spans


class Division:
    """The parts of a text that waits in a spool."""

    def __init__(self, spans: Spans) -> None:
        self.spans = spans

    @classmethod
    def of(cls, n: int, n_all: int, config: TextConfig) -> "Division":
        """As the settings say, of n symbols, and those of a held-out text of its own after them."""
        return cls(interleaved(n, config) if config.split == "blocks" else tail(n, n_all, config))

    def codes(self, spool: Spool, part: str) -> Iterator[Codes]:
        """The code points of a part, in order, in blocks."""
        for start, end in self.spans[part]:
            yield from spool.read(start, end)


class Draw(Division):
    """Whole documents by a hash of their text: what occurs twice is in one part, now and in a longer text."""

    def __init__(self, folder: Path, config: TextConfig) -> None:
        """`folder` is where the part of each is kept when they are many, a byte for each."""
        self._shares = (config.val, config.val + config.test)
        self._file = files.scratch(folder, in_memory=IN_MEMORY)
        self._sum = np.zeros(1, dtype=np.uint64)  # of the document that has not ended, so far
        self._length = 0  # and its length

    def add(self, codes: Codes) -> None:
        """Read code points, with END_POINT where documents end."""
        for start in range(0, len(codes), AT_ONCE):
            self._add(codes[start : start + AT_ONCE])

    def _add(self, codes: Codes) -> None:
        ends = np.flatnonzero(codes == END_POINT)
        starts = np.concatenate(([0], ends + 1))
        lengths = np.diff(starts, append=len(codes))
        places = np.arange(len(codes)) - np.repeat(starts, lengths)
        places[: lengths[0]] += self._length
        values = np.append(mix(places, codes), np.uint64(0))  # so that the last document may be empty here
        values[ends] = 0
        sums = np.add.reduceat(values, starts)
        sums[:1] += self._sum
        held_out, test = self._shares
        drawn = uniform(sums[:-1])
        parts = np.where(drawn < held_out, 1, np.where(drawn < test, 2, 0)).astype(np.uint8)
        self._file.write(parts.tobytes())
        self._sum = sums[-1:]
        self._length = int(lengths[-1]) + (0 if len(ends) else self._length)

    def codes(self, spool: Spool, part: str) -> Iterator[Codes]:
        """The code points of a part's documents, in order, in blocks."""
        number = 0
        for codes in spool.read(0, spool.chars):
            for start in range(0, len(codes), AT_ONCE):
                piece = codes[start : start + AT_ONCE]
                starts = np.concatenate(([0], np.flatnonzero(piece == END_POINT) + 1))
                self._file.seek(number)
                parts = np.frombuffer(self._file.read(len(starts)).ljust(len(starts), b"\xff"), np.uint8)
                lengths = np.diff(starts, append=len(piece))
                yield piece[np.repeat(parts == _NUMBERS.get(part), lengths)]
                number += len(starts) - 1

    def close(self) -> None:
        """Give back what it takes."""
        self._file.close()


_NUMBERS = {name: i for i, name in enumerate(PARTS)}

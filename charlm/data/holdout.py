"""How a text is split into training, held-out and test parts, and how a later run keeps what an earlier one held out.

Numbers are of symbols kept (characters and ends of documents). Every one belongs to exactly one part.

Numbers are of symbols kept (characters and ends of documents), as in charlm/data/holdout.py.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from charlm import files
from charlm.config import TextConfig
from charlm.data.codes import AT_ONCE, IN_MEMORY, Codes, Spool
from charlm.data.overlap import PASSAGE, Passages, hashes_of
from charlm.data.stream import Block
from charlm.data.tokenizer import END_POINT, Ids, Vocabulary, code_points
from charlm.rng import mix, uniform

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


MOST_KEPT_BACK = 1 << 22
"""Symbols of an earlier held-out part that are looked for; of a longer one as many, evenly spread."""
PIECE = 1 << 18


@dataclass(frozen=True)
class Respected:
    """How a text was divided so that an earlier division holds in it."""

    spans: Spans
    begins: bool  # does the text begin with the earlier one?
    found: int  # symbols left out of training elsewhere, since they were kept from it before

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Respected":
        """Rebuild from the fields as JSON has them; ValueError, KeyError or TypeError where they are not."""
        spans: Spans = {
            name: [(int(a), int(b)) for a, b in data["spans"][name]] for name in (*PARTS, LEFT_OUT)
        }
        return cls(spans, bool(data["begins"]), int(data["found"]))


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The text of the run that another goes on from."""

    vocabulary: Vocabulary
    key: str  # of its corpus: of the text, and of how it is divided
    sha256: str  # of the text as UTF-8
    chars: int
    spans: Spans | None  # its parts; None where they are of documents, and these are found by their text
    kept_back: tuple[Ids, ...] | None  # what was held out or kept for the test; None: it is gone
    looked: bool  # was it looked for in the new text? It is, unless it was gone
    respected: Respected | None = None  # how the new text was divided, once that is known

    @cached_property
    def digest(self) -> str:
        """A hash of all that the division and the vocabulary of the new text depend on."""
        text = [self.key, self.sha256, self.chars, self.spans, self.looked]
        facts = [json.loads(self.vocabulary.to_json()), *text]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def passages(self) -> Passages:
        """Those of what was kept back."""
        texts = (self.vocabulary.decode(piece) for ids in self.kept_back or () for piece in _pieces(ids))
        return Passages(
            np.concatenate([hashes_of(code_points(text)) for text in texts] or [np.empty(0, np.uint64)])
        )


class Beginning:
    """Does a text begin with an earlier one? Found out block by block."""

    def __init__(self, earlier: Earlier) -> None:
        self.earlier = earlier
        self._left = earlier.chars
        self._digest = hashlib.sha256()
        self.same = False

    def add(self, block: Block) -> None:
        """Read some more of it."""
        if not self._left:
            return
        text = block.text
        read = min(len(text), self._left)
        self._digest.update(block.utf8 if read == len(text) else text[:read].encode())
        self._left -= read
        self.same = not self._left and self._digest.hexdigest() == self.earlier.sha256


def respect(beginning: Beginning, spool: Spool, n: int, config: TextConfig) -> Respected:
    """Divide a text of n symbols, and those of a held-out text of its own after them.

    Where it begins with the earlier text, that keeps its parts, and the rest is divided by itself. What
    was kept back before and stands elsewhere in the training part, in passages of PASSAGE symbols or
    more, is left out of it.
    """
    earlier, start, kept = beginning.earlier, 0, _nothing()
    if earlier.respected is not None:
        return earlier.respected
    if beginning.same and earlier.spans is not None and config.documents == "none":
        start, kept = earlier.chars, earlier.spans
    rest = Division.of(n - start, spool.chars - start, config).spans
    spans = {name: [*kept[name], *((a + start, b + start) for a, b in rest[name])] for name in kept}
    taken: list[Span] = []
    if earlier.kept_back is not None:
        taken = list(_merged(_places(earlier.passages(), spool.read(start, n), start)))
    spans["train"], out = _without(spans["train"], taken)
    spans[LEFT_OUT] = [*spans[LEFT_OUT], *out]
    return Respected(spans, start > 0, sum(b - a for a, b in out))


def _nothing() -> Spans:
    return {name: [] for name in (*PARTS, LEFT_OUT)}


def _pieces(ids: Ids) -> Iterator[Ids]:
    there = -(-len(ids) // PIECE)
    for i in np.linspace(0, there - 1, min(there, MOST_KEPT_BACK // PIECE)).round().astype(int):
        yield ids[i * PIECE : (i + 1) * PIECE]


def _places(passages: Passages, blocks: Iterable[Codes], start: int) -> Iterator[Span]:
    """Where the passages stand in blocks of which the first begins at `start`, whatever documents end in them."""
    held: Codes = np.empty(0, np.uint8)
    places = np.empty(0, np.int64)
    for codes in blocks:
        inside = np.flatnonzero(codes != END_POINT)
        held, places = np.concatenate((held, codes[inside])), np.concatenate((places, inside + start))
        start += len(codes)
        found, _ = passages.find(held)
        cuts = np.flatnonzero(np.diff(found) > PASSAGE) + 1
        for run in np.split(found, cuts) if len(found) else ():
            yield int(places[run[0]]), int(places[run[-1] + PASSAGE - 1]) + 1
        read = max(0, len(held) - (PASSAGE - 1))
        held, places = held[read:], places[read:]


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    """Ascending spans, those that touch as one."""
    last: Span | None = None
    for a, b in spans:
        if last is not None and a <= last[1]:
            last = last[0], max(b, last[1])
            continue
        if last is not None:
            yield last
        last = a, b
    if last is not None:
        yield last


def _without(spans: Sequence[Span], taken: Sequence[Span]) -> tuple[list[Span], list[Span]]:
    """What is left of spans, and what lies in those taken."""
    kept, out = [], []
    for start, end in spans:
        at = start
        for a, b in taken:
            a, b = max(a, at), min(b, end)
            if a < b:
                kept += [(at, a)] if at < a else []
                out.append((a, b))
                at = b
        kept += [(at, end)] if at < end else []
    return kept, out

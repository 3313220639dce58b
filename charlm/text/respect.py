"""What an earlier run held out of its text stays held out of a longer or another one.

Numbers are of symbols kept (characters and ends of documents), as in charlm/text/split.py.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from charlm.config import TextConfig
from charlm.text.codes import Codes, Spool
from charlm.text.passages import PASSAGE, Passages, hashes_of
from charlm.text.split import LEFT_OUT, PARTS, Division, Span, Spans
from charlm.text.stream import Block
from charlm.text.vocabulary import END_POINT, Ids, Vocabulary, code_points

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

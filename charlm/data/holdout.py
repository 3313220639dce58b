"""How a text is split into training, held-out and test parts, and how fine-tuning keeps what an earlier run held out.

Positions and lengths count symbols: characters and ends of documents. Every one belongs to exactly one part.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from charlm.data.encode import Spool
from charlm.data.overlap import PASSAGE, Passages, hashes_of, spread_pieces
from charlm.data.shards import TextIds
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import END_POINT, Points, Vocabulary, code_points
from charlm.rng import mix, uniform

PARTS = ("train", "held_out", "test")
LEFT_OUT = "left_out"
Span = tuple[int, int]  # the first symbol and the one after the last
Spans = dict[str, list[Span]]  # of each part
MOST_STRETCHES, STRETCH = 20, 20_000
"""How many blocks are held out, spread over the text; in a short text one per STRETCH symbols."""
GAP, GAP_SHARE = 512, 8
"""Symbols in the gap beside a held-out block (the longest planned block_size), at most 1/GAP_SHARE of the block."""
MOST_SEARCHED = 1 << 22
"""Symbols of an earlier held-out part that are searched for in a new text; a longer one is sampled evenly."""


def split_tail(n: int, n_all: int, config: TextConfig) -> Spans:
    """Training, held-out and test part, one after another; with --val-file, what comes after n is held out."""
    val, test = config.val, config.test
    own = config.val_file is not None
    n_seen = int(round(n * (1 - test), 6)) if test else n  # since 1 - 0.05 - 0.05 < 0.9 in floating point
    n_train = n_seen if own else int(round(n * (1 - val - test), 6)) if test else int(n * (1 - val))
    held_out = (n, n_all) if own else (n_train, n_seen)
    return {"train": [(0, n_train)], "held_out": [held_out], "test": [(n_seen, n)], LEFT_OUT: []}


def split_blocks(n: int, config: TextConfig) -> Spans:
    """The end of each of several stretches is held out, with a gap on both sides that belongs to no part."""
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


class Split:
    """A split by position: the spans of each part of a text in a spool."""

    def __init__(self, spans: Spans) -> None:
        self.spans = spans

    @classmethod
    def of(cls, n: int, n_all: int, config: TextConfig) -> "Split":
        """Split n symbols as configured; the n_all - n after them are a separate held-out text."""
        return cls(split_blocks(n, config) if config.split == "blocks" else split_tail(n, n_all, config))

    def codes(self, spool: Spool, part: str) -> Iterator[Points]:
        """The code points of a part, in order, in blocks."""
        for start, end in self.spans[part]:
            yield from spool.read(start, end)


class DocumentSplit:
    """A split by whole documents, drawn by a hash of their text, so that equal ones are in one part even if the text grows."""

    def __init__(self, config: TextConfig) -> None:
        self._shares = (config.val, config.val + config.test)
        self._parts = bytearray()  # the part of each document, by its number in PARTS
        self._sum = np.zeros(1, dtype=np.uint64)  # the hash so far of the document that has not ended yet
        self._length = 0  # and its length so far

    def add(self, codes: Points) -> None:
        """Draw a part for each document in the next code points, which have END_POINT where documents end."""
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
        self._parts += np.where(drawn < held_out, 1, np.where(drawn < test, 2, 0)).astype(np.uint8).tobytes()
        self._sum = sums[-1:]
        self._length = int(lengths[-1]) + (0 if len(ends) else self._length)

    def codes(self, spool: Spool, part: str) -> Iterator[Points]:
        """The code points of a part's documents, in order, in blocks."""
        if part not in PARTS:
            return  # no document is left out
        parts = np.frombuffer(self._parts + b"\xff", np.uint8)  # the last: a document that does not end
        number = 0
        for codes in spool.read(0, spool.chars):
            starts = np.concatenate(([0], np.flatnonzero(codes == END_POINT) + 1))
            lengths = np.diff(starts, append=len(codes))
            of_document = parts[number : number + len(starts)] == PARTS.index(part)
            yield codes[np.repeat(of_document, lengths)]
            number += len(starts) - 1


@dataclass(frozen=True)
class InheritedSplit:
    """How a text was split so that nothing an earlier run held out is trained on."""

    spans: Spans
    begins: bool  # the text begins with the earlier one
    found: int  # symbols left out of training elsewhere, since the earlier run held them out

    def __post_init__(self) -> None:
        if set(self.spans) != {*PARTS, LEFT_OUT}:
            raise ValueError(f"a division needs the parts {', '.join((*PARTS, LEFT_OUT))}")


@dataclass(frozen=True, kw_only=True)
class EarlierText:
    """The text of the run that is fine-tuned."""

    vocabulary: Vocabulary
    key: str  # of its corpus
    sha256: str  # of the text as UTF-8
    chars: int
    spans: Spans | None  # its parts; None if whole documents were drawn, which are found by their text
    kept_back: tuple[TextIds, ...] | None  # its held-out and test parts; None if they are gone
    looked: bool  # whether those were searched for in the new text: always, unless they were gone
    inherited_split: InheritedSplit | None = None  # how the new text was split, once that is known

    @cached_property
    def digest(self) -> str:
        """A hash of all that the split and the vocabulary of the new text depend on."""
        text = [self.key, self.sha256, self.chars, self.spans, self.looked]
        facts = [json.loads(self.vocabulary.to_json()), *text]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def passages(self) -> Passages:
        """The passages of its held-out and test parts."""
        pieces = (piece for ids in self.kept_back or () for piece in spread_pieces(ids, MOST_SEARCHED))
        return Passages(hashes_of(code_points(self.vocabulary.decode(piece))) for piece in pieces)


class BeginsWith:
    """Checks block by block whether a text begins with an earlier one."""

    def __init__(self, earlier: EarlierText) -> None:
        self.earlier = earlier
        self._left = earlier.chars
        self._digest = hashlib.sha256()
        self.same = False

    def add(self, block: Block) -> None:
        """Read the next block."""
        if not self._left:
            return
        text = block.text
        read = min(len(text), self._left)
        self._digest.update(block.utf8 if read == len(text) else text[:read].encode())
        self._left -= read
        self.same = not self._left and self._digest.hexdigest() == self.earlier.sha256


def inherit_split(
    earlier: EarlierText, begins: bool, spool: Spool, n: int, config: TextConfig
) -> InheritedSplit:
    """Split a text of n symbols, and a separate held-out text after them, without training on what was held out earlier.

    If it begins with the earlier text, that keeps its parts, and only the rest is split anew. What the
    earlier run held out is left out of training wherever it occurs, in passages of PASSAGE symbols or more.
    """
    if earlier.inherited_split is not None:
        return earlier.inherited_split
    start, kept = 0, Spans({name: [] for name in (*PARTS, LEFT_OUT)})
    if begins and earlier.spans is not None and config.documents == "none":
        start, kept = earlier.chars, earlier.spans
    rest = Split.of(n - start, spool.chars - start, config).spans
    spans = {name: [*kept[name], *((a + start, b + start) for a, b in rest[name])] for name in kept}
    taken: list[Span] = []
    if earlier.kept_back is not None:
        taken = _merged(_places(earlier.passages(), spool.read(start, n), start))
    spans["train"], out = _cut_out(spans["train"], taken)
    spans[LEFT_OUT] = [*spans[LEFT_OUT], *out]
    return InheritedSplit(spans, start > 0, sum(b - a for a, b in out))


def _places(passages: Passages, blocks: Iterable[Points], start: int) -> Iterator[Span]:
    """Find the spans of the passages in blocks that begin at `start`; a passage may extend over ends of documents."""
    held: Points = np.empty(0, np.uint8)
    places = np.empty(0, np.int64)
    for codes in blocks:
        inside = np.flatnonzero(codes != END_POINT)
        held, places = np.concatenate((held, codes[inside])), np.concatenate((places, inside + start))
        start += len(codes)
        found, _ = passages.find(hashes_of(held))
        cuts = np.flatnonzero(np.diff(found) > PASSAGE) + 1
        for run in np.split(found, cuts) if len(found) else ():
            yield int(places[run[0]]), int(places[run[-1] + PASSAGE - 1]) + 1
        read = max(0, len(held) - (PASSAGE - 1))
        held, places = held[read:], places[read:]


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Join ascending spans that touch or overlap."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _cut_out(spans: Sequence[Span], taken: Sequence[Span]) -> tuple[list[Span], list[Span]]:
    """Remove the spans `taken` from `spans`. Return what is left, and what was removed."""
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

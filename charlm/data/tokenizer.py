"""The tokenizer: characters (or bytes) to ids and back, and how rare characters are spelled in bytes.

Ids, in order: the characters kept (by code point), the grapheme clusters of several (in their order
as strings), the bytes that occur in the training part (rare characters are spelled there in UTF-8),
the end of a document where documents are kept apart, then the bytes that never occur in training.
Where the units are bytes no characters are kept, so everything is spelled. The model has a row for
each of all but the last kind; those share one small fixed probability. A vocabulary that has grown
keeps the ids that it had: what is new follows them, in the same order.
"""

import codecs
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from charlm.data import graphemes
from charlm.data.graphemes import FIRST_POINT, LONGEST, MOST, Points

WORDS = {"chars": "character", "bytes": "byte", "graphemes": "grapheme"}
"""A symbol in a word, by the name of the units."""
MIN_CLUSTER_COUNT = 2
"""Clusters that occur less often are read as their characters, unless told: so that those are known too."""

Occurrences = NDArray[np.int64]


def kept_clusters(
    occurrences: Occurrences,
    clusters: Mapping[str, int],
    min_count: int | None,
    known: Collection[str] = (),
) -> tuple[dict[str, int], Occurrences]:
    """The clusters that get a symbol, in order, and how often code points occur outside of them.

    `occurrences` of code points outside of all clusters, by point; `clusters`: how often each occurs. Those
    that are `known` get one however rare they are.
    """
    least = MIN_CLUSTER_COUNT if min_count is None else min_count
    known = set(known)
    kept = {cluster: n for cluster, n in sorted(clusters.items()) if n >= least or cluster in known}
    rare = {cluster: n for cluster, n in clusters.items() if cluster not in kept}
    highest = max((ord(max(cluster)) for cluster in rare), default=0)
    if rare:
        occurrences = np.pad(occurrences, (0, max(0, highest + 1 - len(occurrences))))
    for cluster, n in rare.items():
        for char in cluster:
            occurrences[ord(char)] += n
    return kept, occurrences


def refuse_clusters(clusters: Sequence[str], units: str) -> None:
    """ValueError for clusters that no vocabulary of such units can have."""
    if clusters and units != "graphemes":
        raise ValueError(f"a vocabulary of {units} has no clusters")
    if not all(1 < len(cluster) <= LONGEST for cluster in clusters) or sum(map(len, clusters)) > MOST:
        raise ValueError(f"the clusters of a vocabulary are of 2 to {LONGEST} characters, {MOST:,} in all")


Ids = NDArray[np.integer[Any]]

MIN_COUNT_FROM = 100_000
DECODE_AT_ONCE = 1 << 16
END = "\ud800"
"""Stands in our own strings where a document ends. It is half a character, so no text has it."""
END_POINT = ord(END)
_END_UTF8, _NO_UTF8 = END.encode(errors="surrogatepass"), 0xFF


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a model. `counts`: how often each that the model has occurs in training, by id."""

    chars: str
    trained_bytes: bytes
    counts: tuple[int, ...]
    ends: bool = False  # is there a symbol for the end of a document?
    units: str = "chars"
    clusters: tuple[str, ...] = ()  # of several code points each
    ids: tuple[int, ...] = ()  # of all these in turn, where the vocabulary has grown; else 0, 1, 2, ...

    def __post_init__(self) -> None:
        for symbols in (list(self.chars), [chr(byte) for byte in self.trained_bytes], list(self.clusters)):
            if symbols != sorted(set(symbols)):
                raise ValueError("the symbols of a vocabulary stand in order, each once")
        if self.units not in WORDS or (self.units == "bytes" and self.chars):
            raise ValueError("the units of a vocabulary are chars, graphemes, or bytes without characters")
        refuse_clusters(self.clusters, self.units)
        if len(self.counts) != self.n_symbols or self.n_symbols == 0 or min(self.counts) < 1:
            raise ValueError("a vocabulary has a count above 0 for each of its symbols")
        if self.ids and sorted(self.ids) != list(range(self.n_symbols)):
            raise ValueError("the ids of a vocabulary that has grown are all those there are, each once")

    @classmethod
    def build(cls, training_part: str, min_count: int | None = None, units: str = "chars") -> Self:
        """Keep the characters that occur at least `min_count` times; the rest become bytes."""
        points = code_points(training_part)
        if units != "graphemes":
            return cls.of_counts(np.bincount(points), min_count, units)
        starts, found = graphemes.find(points)
        singles = np.bincount(graphemes.without(points, starts, found))
        return cls.of_counts(singles, min_count, units, Counter(found))

    @classmethod
    def of_counts(
        cls,
        occurrences: NDArray[np.int64],
        min_count: int | None = None,
        units: str = "chars",
        clusters: Mapping[str, int] = MappingProxyType({}),
        known: "Vocabulary | None" = None,
    ) -> Self:
        """As `build`, from how often each code point occurs in the training part.

        With `clusters`, how often each of several code points does, what is in those is not counted.
        Symbols of `known` are kept however rare they are here.
        """
        kept, occurrences = kept_clusters(occurrences, clusters, min_count, known.clusters if known else ())
        n_ends = occurrences[END_POINT : END_POINT + 1].tolist()
        if any(n_ends):
            occurrences = occurrences.copy()
            occurrences[END_POINT] = 0
        if min_count is None:
            total = int(occurrences.sum()) + sum(len(cluster) * n for cluster, n in kept.items())
            min_count = 2 if total > MIN_COUNT_FROM else 1
        spelled = occurrences < min_count if units != "bytes" else occurrences >= 0
        if known is not None:
            points = code_points(known.chars)
            spelled[points[points < len(spelled)]] = False
        present = np.flatnonzero(occurrences)
        chars = present[~spelled[present]]
        byte_counts = np.zeros(256, dtype=np.int64)
        for point in present[spelled[present]]:
            for byte in chr(point).encode():
                byte_counts[byte] += occurrences[point]
        trained = np.flatnonzero(byte_counts)
        of_bytes = byte_counts[trained].tolist()
        counts = [*occurrences[chars].tolist(), *kept.values(), *of_bytes, *filter(None, n_ends)]
        text = chars.astype("<u4").tobytes().decode("utf-32-le")
        return cls(text, bytes(trained.tolist()), tuple(counts), any(n_ends), units, tuple(kept))

    @property
    def n_symbols(self) -> int:
        """How many symbols the model has a row for."""
        return self._n_texts + len(self.trained_bytes) + self.ends

    @property
    def n_ids(self) -> int:
        """How many ids there are, bytes that training never saw included."""
        return self._n_texts + 256 + self.ends

    @property
    def _n_texts(self) -> int:
        """How many symbols are characters or clusters of them."""
        return len(self.chars) + len(self.clusters)

    @property
    def word(self) -> str:
        """What a symbol stands for, in a word: `character`."""
        return WORDS[self.units]

    @property
    def end(self) -> int | None:
        """The id of the end of a document, which begins the next; None where there is none."""
        return int(self._id_of_symbol[-1]) if self.ends else None

    def encode(self, text: str) -> NDArray[np.int32]:
        """The ids of a text; a character that is lacking becomes the bytes of its UTF-8.

        Ends of documents, where the text says them, are left out if there is no symbol for them.
        """
        if not self.ends:
            text = without_ends(text)
        if self.units == "bytes":
            return self.id_of_byte_of_text[utf8_of(text)]
        points = self.points(text)
        ids = self.id_of_point[points]
        lacking = np.flatnonzero(ids < 0)
        if not len(lacking):
            return ids
        different, which = np.unique(points[lacking], return_inverse=True)
        spellings = [self.spell(chr(point)) for point in different]
        lengths = np.ones(len(ids), dtype=np.int64)
        lengths[lacking] = np.array([len(spelling) for spelling in spellings])[which]
        out = np.repeat(ids, lengths)
        out[np.repeat(ids < 0, lengths)] = np.concatenate([spellings[i] for i in which])
        return out

    def lacking(self, text: str) -> dict[str, int]:
        """The characters of a text that the model has no symbol for, and how often each occurs in it.

        Where the units are bytes: those with a byte that training never saw.
        """
        text = without_ends(text)
        if self.units == "bytes":
            known = set(self.trained_bytes)
            found = Counter(char for char in text if not known.issuperset(char.encode()))
        else:
            points = self.points(text)
            found = Counter(map(chr, points[self.id_of_point[points] < 0].tolist()))
        return dict(found.most_common())

    def points(self, text: str) -> Points:
        """The code points of a text, each of its clusters that is known as one number."""
        points = code_points(text)
        return graphemes.merged(points, self.number_of_cluster) if self.clusters else points

    def decode(self, ids: Ids, end: str = "") -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD, ends of documents `end`."""
        decoder = Decoder(self, end)
        pieces = np.array_split(ids, len(ids) // DECODE_AT_ONCE + 1)
        return "".join([*map(decoder.feed, pieces), decoder.flush()])

    def spell(self, char: str) -> NDArray[np.int32]:
        """The ids of the bytes of a character's UTF-8."""
        return self.id_of_byte[list(char.encode())]

    @cached_property
    def id_of_point(self) -> NDArray[np.int32]:
        """The id of each code point, -1 where it is lacking, then of each cluster: (0x110000 + clusters,)."""
        table = np.full(FIRST_POINT + len(self.clusters), -1, dtype=np.int32)
        table[code_points(self.chars)] = self._id_of_symbol[: len(self.chars)]
        table[FIRST_POINT:] = self._id_of_symbol[len(self.chars) : self._n_texts]
        if self.end is not None:
            table[END_POINT] = self.end
        return table

    @cached_property
    def number_of_cluster(self) -> dict[str, int]:
        """The number that stands for each cluster among code points."""
        return {cluster: FIRST_POINT + i for i, cluster in enumerate(self.clusters)}

    @cached_property
    def id_of_byte(self) -> NDArray[np.int32]:
        """The id of each byte, as it spells what is lacking: (256,)."""
        n, trained = self._n_texts, np.frombuffer(self.trained_bytes, np.uint8)
        lacking = np.setdiff1d(np.arange(256), trained)
        table = np.empty(256, dtype=np.int32)
        table[trained] = self._id_of_symbol[n : n + len(trained)]
        table[lacking] = self.n_symbols + np.arange(len(lacking))
        return table

    @cached_property
    def id_of_byte_of_text(self) -> NDArray[np.int32]:
        """The same for what `utf8_of` gives: with the end of a document, if there is one, for a byte that no text has."""
        table = self.id_of_byte.copy()
        if self.end is not None:
            table[_NO_UTF8] = self.end
        return table

    @cached_property
    def _id_of_symbol(self) -> NDArray[np.int32]:
        """The ids of the characters, the clusters, the bytes that occur in training and the end, in this order."""
        return np.array(self.ids or range(self.n_symbols), dtype=np.int32)

    @cached_property
    def spellings(self) -> list[bytes]:
        """The UTF-8 of each id; nothing for the end of a document."""
        spelled = [b""] * self.n_ids
        for i, text in zip(self._id_of_symbol.tolist(), (*self.chars, *self.clusters), strict=False):
            spelled[i] = text.encode()
        for byte, i in enumerate(self.id_of_byte.tolist()):
            spelled[i] = bytes([byte])
        return spelled

    def differences(self, other: "Vocabulary") -> list[str]:
        """The characters, clusters and bytes (as `<E2>`) that one of two vocabularies has and the other has not."""
        mine, theirs = (
            {*each.chars, *each.clusters, *(f"<{byte:02X}>" for byte in each.trained_bytes)}
            for each in (self, other)
        )
        return sorted(mine ^ theirs)

    def to_json(self) -> str:
        """As text; `from_json` gives the same vocabulary again."""
        data: dict[str, Any] = {"chars": self.chars, "counts": list(self.counts)}
        data |= {"bytes": list(self.trained_bytes)}
        data |= {"ends": True} if self.ends else {}
        data |= {"units": self.units, "clusters": list(self.clusters)} if self.units != "chars" else {}
        data |= {"ids": list(self.ids)} if self.ids else {}
        return json.dumps(data)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild from parsed `to_json`; ValueError where it is not a vocabulary. Old ones are of characters."""
        chars, numbers, counts, ids = (data.get(name) for name in ("chars", "bytes", "counts", "ids"))
        units, clusters = data.get("units", "chars"), data.get("clusters", [])
        more = {"ends", "units", "clusters", "ids"}
        if set(data) - more != {"chars", "bytes", "counts"} or not isinstance(chars, str):
            raise ValueError("a vocabulary has chars, bytes and counts")
        if not isinstance(data.get("ends", False), bool):
            raise ValueError("a vocabulary has a symbol for the end of a document or has none")
        for values, high in ((numbers, 255), (counts, 2**63 - 1), ([] if ids is None else ids, 2**31 - 1)):
            if not isinstance(values, list) or not all(type(v) is int and 0 <= v <= high for v in values):
                raise ValueError("the bytes, counts and ids of a vocabulary are lists of whole numbers")
        if not isinstance(clusters, list) or not all(isinstance(text, str) for text in (units, *clusters)):
            raise ValueError("the units of a vocabulary are a word, and its clusters texts")
        if first_surrogate(chars) is not None or first_surrogate("".join(clusters)) is not None:
            raise ValueError("a vocabulary has no lone surrogates")
        ends, moved = bool(data.get("ends")), tuple(ids or ())
        return cls(chars, bytes(numbers), tuple(counts), ends, units, tuple(clusters), moved)  # type: ignore[arg-type]


def code_points(text: str) -> NDArray[np.uint32]:
    """The code points of a text, one number a character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def utf8_of(text: str) -> NDArray[np.uint8]:
    """The UTF-8 of a text, byte by byte, and where a document ends a byte that UTF-8 never has."""
    utf8 = text.encode(errors="surrogatepass").replace(_END_UTF8, bytes([_NO_UTF8]))
    return np.frombuffer(utf8, dtype=np.uint8)


def without_ends(text: str) -> str:
    """The characters of a text, whatever it says of its documents."""
    return text.replace(END, "")


def first_surrogate(text: str) -> int | None:
    """Where the first lone surrogate stands, which is no character and has no UTF-8."""
    try:
        text.encode("utf-32-le")
    except UnicodeEncodeError as error:
        return error.start
    return None


class Decoder:
    """Ids to text piece by piece: bytes that make a character together are held until they do."""

    def __init__(self, vocabulary: "Vocabulary", end: str = "") -> None:
        """`end` is what the end of a document becomes."""
        self._spellings = vocabulary.spellings
        self._id_of_end, self._end = vocabulary.end if end else None, end
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The text that is complete with these ids."""
        if self._id_of_end is None:
            return self._utf8.decode(b"".join([self._spellings[i] for i in ids]))
        text, piece = "", list[bytes]()
        for i in ids:
            if i == self._id_of_end:
                text += self._utf8.decode(b"".join(piece), final=True) + self._end
                piece = []
            else:
                piece.append(self._spellings[i])
        return text + self._utf8.decode(b"".join(piece))

    def flush(self) -> str:
        """What is left at the end: U+FFFD where a character was not finished."""
        return self._utf8.decode(b"", final=True)


def spans(vocabulary: Vocabulary, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each character, or known cluster of several: how many characters it is, how many ids it becomes."""
    points = vocabulary.points(text)
    of_cluster = np.array([1, *map(len, vocabulary.clusters)], dtype=np.int64)
    chars = of_cluster[np.maximum(points, FIRST_POINT - 1) - (FIRST_POINT - 1)]
    bytes_ = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    return chars, np.where(vocabulary.id_of_point[points] < 0, bytes_, 1)


def count_units(vocabulary: Vocabulary, text: str) -> int:
    """How many characters a text has, or bytes of UTF-8, or graphemes, whichever are the units."""
    if vocabulary.units == "graphemes":
        return graphemes.count(text)
    return len(text.encode()) if vocabulary.units == "bytes" else len(text)


def count_unknown(vocabulary: Vocabulary, text: str) -> int:
    """How many characters of a text are spelled in bytes; where those are the units, in bytes never seen."""
    if vocabulary.units != "bytes":
        return int((vocabulary.id_of_point[vocabulary.points(text)] < 0).sum())
    different, counts = np.unique(code_points(text), return_counts=True)
    pairs = zip(different.tolist(), counts.tolist(), strict=True)
    return sum(n for point, n in pairs if not can_write(vocabulary, chr(point)))


def can_write(vocabulary: Vocabulary, char: str) -> bool:
    """Has the model this character as a symbol of its own or, where the units are bytes, in bytes it was trained on?"""
    if vocabulary.units == "bytes":
        return set(char.encode()) <= set(vocabulary.trained_bytes)
    return char in vocabulary.chars


def grown(old: Vocabulary, here: Vocabulary, *, anew: bool = False) -> Vocabulary:
    """The old symbols, and those of another training part, which was counted knowing the old ones.

    The ids of what is new follow the old ones: an n-gram is found by its ids. Occurrences are added to
    the old ones, or replace them where `anew`: the old text is part of this one.
    """
    assert old.units == here.units, "what a symbol stands for cannot change"
    chars = "".join(sorted({*old.chars, *here.chars}))
    clusters = tuple(sorted({*old.clusters, *here.clusters}))
    bytes_ = bytes(sorted({*old.trained_bytes, *here.trained_bytes}))
    ends = old.ends or here.ends
    was, now = (_ids_in(vocabulary, chars, clusters, bytes_, ends) for vocabulary in (old, here))
    ids = was.copy()
    ids[was < 0] = old.n_symbols + np.arange(int((was < 0).sum()))
    counts = np.zeros(len(ids), dtype=np.int64)
    counts[ids[now >= 0]] = np.array(here.counts, dtype=np.int64)[now[now >= 0]]
    if not anew or not counts.all():
        counts[: old.n_symbols] += np.array(old.counts, dtype=np.int64)
    moved = () if (ids == np.arange(len(ids))).all() else tuple(ids.tolist())
    return Vocabulary(chars, bytes_, tuple(counts.tolist()), ends, old.units, clusters, moved)


def _ids_in(
    vocabulary: Vocabulary, chars: str, clusters: Iterable[str], bytes_: bytes, ends: bool
) -> NDArray[np.int64]:
    """The ids of symbols in a vocabulary, -1 for those it has no row for."""
    points = vocabulary.id_of_point
    of_bytes = vocabulary.id_of_byte[list(bytes_)]
    return np.concatenate(
        (
            points[code_points(chars)],
            [points[n] if (n := vocabulary.number_of_cluster.get(c)) is not None else -1 for c in clusters],
            np.where(of_bytes < vocabulary.n_symbols, of_bytes, -1),
            [-1 if vocabulary.end is None else vocabulary.end] * ends,
        )
    ).astype(np.int64)


def carried(ids: Ids, old: Vocabulary, new: Vocabulary) -> Ids:
    """Ids of the old vocabulary as the grown one has them: only bytes that training never saw have moved."""
    if not len(ids) or int(ids.max()) < old.n_symbols:
        return ids
    table = np.arange(old.n_ids)
    table[old.id_of_byte] = new.id_of_byte
    return np.asarray(table[ids])

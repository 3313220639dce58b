"""The tokenizer: text to ids and back, an id for each character (or byte); rare characters are spelled in bytes.

The ids, in order:

1. the characters kept, by code point; none where the units are bytes;
2. the bytes that spell all other characters of the training part, in UTF-8;
3. the end of a document, where documents are kept apart;
4. the untrained bytes: all others, so that any text can be encoded.

The model has a row (an embedding, a logit) for each id of 1 to 3, its symbols. The untrained bytes
share one small fixed probability. A vocabulary extended for fine-tuning keeps its ids: new symbols follow in
the same order.
"""

import codecs
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from charlm import strict_json
from charlm.data.shards import Ids as Ids
from charlm.data.shards import Shards, TextIds

Points = NDArray[np.unsignedinteger[Any]]  # code points

UNIT_NOUNS = {"chars": "character", "bytes": "byte"}
"""The noun for what an id stands for, by the name of the units."""
N_POINTS = 0x110000
MIN_COUNT_FROM = 100_000
"""Characters of training text above which a character must occur twice to be kept, unless told otherwise."""
END = "\ud800"
"""Marks the end of a document in our own strings: a lone surrogate, which no text has."""
END_POINT = ord(END)
_DECODED_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a model. `counts`: how often each symbol occurs in training, by id."""

    chars: str
    trained_bytes: bytes
    counts: tuple[int, ...]
    has_end: bool = False  # a symbol for the end of a document
    units: str = "chars"
    ids: tuple[int, ...] = ()  # of each of `symbols`, if extended; empty: 0, 1, 2, ...

    def __post_init__(self) -> None:
        if self.chars != "".join(sorted(set(self.chars))) or self.trained_bytes != bytes(
            sorted(set(self.trained_bytes))
        ):
            raise ValueError("the characters and bytes of a vocabulary must be in order, each once")
        if self.units not in UNIT_NOUNS or (self.units == "bytes" and self.chars):
            raise ValueError("a vocabulary's units must be chars, or bytes without characters")
        if len(self.counts) != self.n_symbols or self.n_symbols == 0 or min(self.counts) < 1:
            raise ValueError("a vocabulary must have a count above 0 for each of its symbols")
        if self.ids and sorted(self.ids) != list(range(self.n_symbols)):
            raise ValueError(f"the ids of a vocabulary must be 0 to {self.n_symbols - 1}, each once")

    @classmethod
    def build(cls, training_text: str, min_count: int | None = None, units: str = "chars") -> Self:
        """The vocabulary of a training text: characters that occur at least `min_count` times are kept."""
        return cls.from_counts(np.bincount(code_points(training_text)), min_count, units)

    @classmethod
    def from_counts(
        cls,
        point_counts: NDArray[np.int64],
        min_count: int | None = None,
        units: str = "chars",
        keep: str = "",
    ) -> Self:
        """As `build`, from how often each code point occurs (n,); characters of `keep` are kept however rare."""
        counts = point_counts.copy()
        n_ends = int(counts[END_POINT : END_POINT + 1].sum())  # a slice: n may be smaller
        counts[END_POINT : END_POINT + 1] = 0
        if min_count is None:
            min_count = 2 if counts.sum() > MIN_COUNT_FROM else 1
        spelled = np.ones(len(counts), dtype=bool) if units == "bytes" else counts < min_count
        kept_points = code_points(keep)
        spelled[kept_points[kept_points < len(counts)]] = False
        chars = np.flatnonzero((counts > 0) & ~spelled)
        byte_counts = np.zeros(256, dtype=np.int64)
        for point in np.flatnonzero((counts > 0) & spelled).tolist():
            for byte in chr(point).encode():
                byte_counts[byte] += counts[point]
        bytes_ = np.flatnonzero(byte_counts)
        all_counts = [*counts[chars].tolist(), *byte_counts[bytes_].tolist(), *[n_ends] * bool(n_ends)]
        return cls(text_of(chars), bytes(bytes_.tolist()), tuple(all_counts), bool(n_ends), units)

    @property
    def symbols(self) -> list[str | int]:
        """Characters, bytes (as numbers) and END, each a row of the model."""
        return [*self.chars, *self.trained_bytes, *[END] * self.has_end]

    @property
    def n_symbols(self) -> int:
        """Number of ids that the model has a row for."""
        return len(self.chars) + len(self.trained_bytes) + self.has_end

    @property
    def n_ids(self) -> int:
        """Number of all ids, including those of bytes that training never saw."""
        return len(self.chars) + 256 + self.has_end

    @property
    def unit_noun(self) -> str:
        """What an id stands for: `character` or `byte`."""
        return UNIT_NOUNS[self.units]

    @property
    def end(self) -> int | None:
        """The id of END, which ends a document and is the context of the next one's first symbol; None without END."""
        return int(self._symbol_ids[-1]) if self.has_end else None

    def encode(self, text: str) -> NDArray[np.int32]:
        """The ids of a text: (m,). END is left out if the vocabulary has no symbol for it."""
        return self.encode_points(code_points(text if self.has_end else without_ends(text)))

    def encode_points(self, points: Points) -> NDArray[np.int32]:
        """The ids of code points: (n,) to (m,), m >= n; a character without an id becomes those of its UTF-8."""
        ids = self.id_of_point.take(points)
        spelled = ids < 0
        if not spelled.any():
            return ids
        lengths = np.ones(len(ids), dtype=np.int64)
        lengths[spelled] = utf8_lengths(points[spelled])
        out = np.repeat(ids, lengths)
        out[out < 0] = self.id_of_byte[
            np.frombuffer(text_of(points[spelled]).encode("utf-8", "surrogatepass"), np.uint8)
        ]
        return out

    def ids_per_char(self, text: str) -> NDArray[np.int64]:
        """How many ids each character of a text becomes: (n,)."""
        points = code_points(text)
        return np.where(self.id_of_point[points] < 0, utf8_lengths(points), 1)

    def decode(self, ids: TextIds, end: str = "") -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD, ends of documents `end`."""
        decoder = Decoder(self, end)
        pieces = (ids[i : i + _DECODED_AT_ONCE] for i in range(0, len(ids), _DECODED_AT_ONCE))
        return "".join([*map(decoder.feed, pieces), decoder.flush()])

    def has_own_id(self, char: str) -> bool:
        """Whether the character has an id of its own or, where the units are bytes, training saw all its bytes."""
        if self.units == "bytes":
            return set(char.encode()) <= set(self.trained_bytes)
        return bool(self.id_of_point[ord(char)] >= 0)

    def unknown_chars(self, text: str) -> dict[str, int]:
        """Characters without an id of their own and how often a text has each, the most frequent first.

        Where the units are bytes: characters with a byte that training never saw.
        """
        counts = Counter(without_ends(text))
        return {char: n for char, n in counts.most_common() if not self.has_own_id(char)}

    def count_units(self, text: str) -> int:
        """How many characters a text has, or bytes of UTF-8 if those are the units."""
        return len(text.encode()) if self.units == "bytes" else len(text)

    @cached_property
    def id_of_point(self) -> NDArray[np.int32]:
        """The id of each code point, -1 for those spelled in bytes: (0x110000,)."""
        table = np.full(N_POINTS, -1, dtype=np.int32)
        table[code_points(self.chars)] = self._symbol_ids[: len(self.chars)]
        if self.end is not None:
            table[END_POINT] = self.end
        return table

    @cached_property
    def id_of_byte(self) -> NDArray[np.int32]:
        """The id of each byte that spells a character: (256,)."""
        n, trained = len(self.chars), np.frombuffer(self.trained_bytes, np.uint8)
        untrained = np.setdiff1d(np.arange(256), trained)
        table = np.empty(256, dtype=np.int32)
        table[trained] = self._symbol_ids[n : n + len(trained)]
        table[untrained] = self.n_symbols + np.arange(len(untrained))
        return table

    @cached_property
    def spellings(self) -> list[bytes]:
        """The UTF-8 of each id; empty for the end of a document."""
        spelled = [b""] * self.n_ids
        for char, i in zip(self.chars, self._symbol_ids.tolist(), strict=False):
            spelled[i] = char.encode()
        for byte, i in enumerate(self.id_of_byte.tolist()):
            spelled[i] = bytes([byte])
        return spelled

    @cached_property
    def _symbol_ids(self) -> NDArray[np.int32]:
        """The ids of `symbols`."""
        return np.array(self.ids or range(self.n_symbols), dtype=np.int32)

    def extended(self, other: "Vocabulary", *, replace_counts: bool = False) -> "Vocabulary":
        """Return a vocabulary with these symbols and ids, then the new symbols of `other`, for fine-tuning on its text.

        Counts are added. `replace_counts`: the text of `other` contains the old one, so its counts include the old.
        """
        assert self.units == other.units, "what an id stands for cannot change"
        old = dict(zip(self.symbols, self._symbol_ids.tolist(), strict=True))
        new = dict(zip(other.symbols, other._symbol_ids.tolist(), strict=True))
        chars = "".join(sorted({*self.chars, *other.chars}))
        bytes_ = bytes(sorted({*self.trained_bytes, *other.trained_bytes}))
        symbols = [*chars, *bytes_, *[END] * (self.has_end or other.has_end)]
        added = [symbol for symbol in symbols if symbol not in old]
        ids = old | {symbol: self.n_symbols + i for i, symbol in enumerate(added)}
        counts = {symbol: other.counts[new[symbol]] if symbol in new else 0 for symbol in ids}
        for symbol, i in old.items():
            if not replace_counts or not counts[symbol]:  # no symbol may have a count of 0
                counts[symbol] += self.counts[i]
        order = tuple(ids[symbol] for symbol in symbols)
        return Vocabulary(
            chars,
            bytes_,
            tuple(counts[symbol] for symbol in sorted(ids, key=ids.__getitem__)),
            END in ids,
            self.units,
            () if order == tuple(range(len(order))) else order,
        )

    def ids_in(self, extended: "Vocabulary", ids: TextIds) -> TextIds:
        """Translate ids (m,) of this vocabulary to one `extended` from it: only untrained bytes get new ids."""
        table = np.arange(self.n_ids)
        table[self.id_of_byte] = extended.id_of_byte
        if isinstance(ids, Shards):
            return ids.translated(table)
        return np.asarray(table[ids]) if len(ids) and int(ids.max()) >= self.n_symbols else ids

    def differences(self, other: "Vocabulary") -> list[str]:
        """Characters and bytes (as `<E2>`) that only one of two vocabularies has."""
        mine, theirs = (
            {*each.chars, *(f"<{byte:02X}>" for byte in each.trained_bytes)} for each in (self, other)
        )
        return sorted(mine ^ theirs)

    def to_json(self) -> str:
        """Serialize as JSON; `from_json` gives the same vocabulary again."""
        data: dict[str, Any] = {"chars": self.chars, "counts": self.counts, "bytes": list(self.trained_bytes)}
        data |= {"ends": True} if self.has_end else {}
        data |= {"units": self.units} if self.units != "chars" else {}
        data |= {"ids": self.ids} if self.ids else {}
        return json.dumps(data)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild from parsed `to_json`. Raises ValueError if it is not a vocabulary."""
        if data.get("units") == "graphemes":
            raise ValueError("its units are graphemes, which charlm no longer has; train with --units chars")
        try:
            s = strict_json.from_json(_Stored, data)
            if first_surrogate(s.chars) is not None:
                raise ValueError("its chars have a lone surrogate")
            return cls(s.chars, bytes(s.bytes), s.counts, s.ends, s.units, s.ids)
        except ValueError as error:
            raise ValueError(f"it is not a vocabulary: {error}") from None


@dataclass(frozen=True)
class _Stored:
    """A vocabulary as JSON."""

    chars: str
    counts: tuple[int, ...]
    bytes: tuple[int, ...]
    ends: bool = False
    units: str = "chars"
    ids: tuple[int, ...] = ()


class Decoder:
    """Streaming decoder of ids to text; the bytes of a character are held until it is complete."""

    def __init__(self, vocabulary: Vocabulary, end: str = "") -> None:
        """`end` is what the end of a document becomes."""
        self._spellings = vocabulary.spellings
        self._end_id, self._end = vocabulary.end if end else None, end
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Iterable[int]) -> str:
        """Return the text that these ids complete."""
        if self._end_id is None:
            return self._utf8.decode(b"".join([self._spellings[i] for i in ids]))
        text, piece = "", list[bytes]()
        for i in ids:
            if i == self._end_id:
                text += self._utf8.decode(b"".join(piece), final=True) + self._end
                piece = []
            else:
                piece.append(self._spellings[i])
        return text + self._utf8.decode(b"".join(piece))

    def flush(self) -> str:
        """Return what is left at the end: U+FFFD if a character is incomplete."""
        return self._utf8.decode(b"", final=True)


def code_points(text: str) -> NDArray[np.uint32]:
    """The code points of a text: (n,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def text_of(points: NDArray[np.integer[Any]]) -> str:
    """The text of code points (n,), END included."""
    return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def utf8_lengths(points: Ids) -> NDArray[np.int64]:
    """How many bytes of UTF-8 each code point takes: (n,)."""
    return 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)


def without_ends(text: str) -> str:
    """A text without the marks of documents' ends."""
    return text.replace(END, "")


def first_surrogate(text: str) -> int | None:
    """Return where the first lone surrogate is, which is no character and has no UTF-8; None if there is none."""
    try:
        text.encode("utf-32-le")
    except UnicodeEncodeError as error:
        return error.start
    return None

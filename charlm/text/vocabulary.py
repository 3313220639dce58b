"""Characters to ids and back, and how the characters it lacks are spelled.

Ids, in order: the characters kept (by code point), the bytes that occur in the training part
(rare characters are spelled there in UTF-8), the end of a document where documents are kept apart,
then the bytes that never occur in training. The model has a row for each of all but the last kind;
those share one small fixed probability. A vocabulary that has grown keeps the ids that it had: what is
new follows them, in the same order.
"""

import codecs
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.integer[Any]]

MIN_COUNT_FROM = 100_000
DECODE_AT_ONCE = 1 << 16
END = "\ud800"
"""Stands in our own strings where a document ends. It is half a character, so no text has it."""
END_POINT = ord(END)


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a model. `counts`: how often each that the model has occurs in training, by id."""

    chars: str
    trained_bytes: bytes
    counts: tuple[int, ...]
    ends: bool = False  # is there a symbol for the end of a document?
    ids: tuple[int, ...] = ()  # of all these in turn, where the vocabulary has grown; else 0, 1, 2, ...

    def __post_init__(self) -> None:
        for symbols in (list(self.chars), [chr(byte) for byte in self.trained_bytes]):
            if symbols != sorted(set(symbols)):
                raise ValueError("the symbols of a vocabulary stand in order, each once")
        if len(self.counts) != self.n_symbols or self.n_symbols == 0 or min(self.counts) < 1:
            raise ValueError("a vocabulary has a count above 0 for each of its symbols")
        if self.ids and sorted(self.ids) != list(range(self.n_symbols)):
            raise ValueError("the ids of a vocabulary that has grown are all those there are, each once")

    @classmethod
    def build(cls, training_part: str, min_count: int | None = None) -> Self:
        """Keep the characters that occur at least `min_count` times; the rest become bytes."""
        return cls.of_counts(np.bincount(code_points(training_part)), min_count)

    @classmethod
    def of_counts(cls, occurrences: NDArray[np.int64], min_count: int | None = None) -> Self:
        """As `build`, from how often each code point occurs in the training part."""
        n_ends = occurrences[END_POINT : END_POINT + 1].tolist()
        if any(n_ends):
            occurrences = occurrences.copy()
            occurrences[END_POINT] = 0
        if min_count is None:
            min_count = 2 if occurrences.sum() > MIN_COUNT_FROM else 1
        present = np.flatnonzero(occurrences)
        kept = present[occurrences[present] >= min_count]
        byte_counts = np.zeros(256, dtype=np.int64)
        for point in present[occurrences[present] < min_count]:
            for byte in chr(point).encode():
                byte_counts[byte] += occurrences[point]
        trained = np.flatnonzero(byte_counts)
        counts = [*occurrences[kept].tolist(), *byte_counts[trained].tolist(), *filter(None, n_ends)]
        chars = kept.astype("<u4").tobytes().decode("utf-32-le")
        return cls(chars, bytes(trained.tolist()), tuple(counts), any(n_ends))

    @property
    def n_symbols(self) -> int:
        """How many symbols the model has a row for."""
        return len(self.chars) + len(self.trained_bytes) + self.ends

    @property
    def n_ids(self) -> int:
        """How many ids there are, bytes that training never saw included."""
        return len(self.chars) + 256 + self.ends

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
        ids = self.encode_points(text)
        lacking = np.flatnonzero(ids < 0)
        if not len(lacking):
            return ids
        different, which = np.unique(code_points(text)[lacking], return_inverse=True)
        spellings = [self.spell(chr(point)) for point in different]
        lengths = np.ones(len(ids), dtype=np.int64)
        lengths[lacking] = np.array([len(spelling) for spelling in spellings])[which]
        out = np.repeat(ids, lengths)
        out[np.repeat(ids < 0, lengths)] = np.concatenate([spellings[i] for i in which])
        return out

    def encode_points(self, text: str) -> NDArray[np.int32]:
        """The id of each character, -1 where it is lacking."""
        return self.id_of_point[code_points(text)]

    def symbols_per_char(self, text: str) -> NDArray[np.int64]:
        """How many ids each character of a text becomes: 1, or the bytes of its UTF-8."""
        points = code_points(text)
        lengths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
        return np.where(self.id_of_point[points] < 0, lengths, 1)

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
        """The id of each code point, -1 where it is lacking: (0x110000,)."""
        table = np.full(0x110000, -1, dtype=np.int32)
        table[code_points(self.chars)] = self._id_of_symbol[: len(self.chars)]
        if self.end is not None:
            table[END_POINT] = self.end
        return table

    @cached_property
    def id_of_byte(self) -> NDArray[np.int32]:
        """The id of each byte, as it spells what is lacking: (256,)."""
        n, trained = len(self.chars), np.frombuffer(self.trained_bytes, np.uint8)
        lacking = np.setdiff1d(np.arange(256), trained)
        table = np.empty(256, dtype=np.int32)
        table[trained] = self._id_of_symbol[n : n + len(trained)]
        table[lacking] = self.n_symbols + np.arange(len(lacking))
        return table

    @cached_property
    def _id_of_symbol(self) -> NDArray[np.int32]:
        """The ids of the characters, the bytes that occur in training and the end, in this order."""
        return np.array(self.ids or range(self.n_symbols), dtype=np.int32)

    @cached_property
    def spellings(self) -> list[bytes]:
        """The UTF-8 of each id; nothing for the end of a document."""
        spelled = [b""] * self.n_ids
        for i, char in zip(self._id_of_symbol.tolist(), self.chars, strict=False):
            spelled[i] = char.encode()
        for byte, i in enumerate(self.id_of_byte.tolist()):
            spelled[i] = bytes([byte])
        return spelled

    def differences(self, other: "Vocabulary") -> str:
        """The characters that one of two vocabularies has and the other has not."""
        return "".join(sorted(set(self.chars) ^ set(other.chars)))

    def to_json(self) -> str:
        """As text; `from_json` gives the same vocabulary again."""
        data = {"chars": self.chars, "bytes": list(self.trained_bytes), "counts": list(self.counts)}
        more = {**({"ends": True} if self.ends else {}), **({"ids": list(self.ids)} if self.ids else {})}
        return json.dumps({**data, **more})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild from parsed `to_json`; ValueError where it is not a vocabulary."""
        chars, numbers, counts, ids = (data.get(name) for name in ("chars", "bytes", "counts", "ids"))
        if set(data) - {"ends", "ids"} != {"chars", "bytes", "counts"} or not isinstance(chars, str):
            raise ValueError("a vocabulary has chars, bytes and counts")
        if not isinstance(data.get("ends", False), bool):
            raise ValueError("a vocabulary has a symbol for the end of a document or has none")
        for values, high in ((numbers, 255), (counts, 2**63 - 1), ([] if ids is None else ids, 2**31 - 1)):
            if not isinstance(values, list) or not all(type(v) is int and 0 <= v <= high for v in values):
                raise ValueError("the bytes, counts and ids of a vocabulary are lists of whole numbers")
        if first_surrogate(chars) is not None:
            raise ValueError("a vocabulary has no lone surrogates")
        return cls(chars, bytes(numbers), tuple(counts), bool(data.get("ends")), tuple(ids or ()))  # type: ignore[arg-type]


class Decoder:
    """Ids to text piece by piece: bytes that make a character together are held until they do."""

    def __init__(self, vocabulary: Vocabulary, end: str = "") -> None:
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


def code_points(text: str) -> NDArray[np.uint32]:
    """The code points of a text, one number a character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


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

"""Code points to ids, block by block, in the narrowest type that holds those of a text."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.data.codes import AT_ONCE, Codes, Counts
from charlm.data.graphemes import FIRST_POINT, merged, whole
from charlm.data.tokenizer import END_POINT, Ids, Vocabulary, utf8_of
from charlm.native.text_kernels import Kernels


class PartEncoder(Protocol):
    """The ids of the parts of a text, of which it is known what characters occur."""

    dtype: "np.dtype[Any]"

    def length(self, counts: Counts, blocks: Iterable[Codes]) -> int:
        """How many ids a part becomes, in which each code point occurs so often; `blocks` are its own."""

    def pieces(self, blocks: Iterable[Codes]) -> Iterator[Ids]:
        """Those ids, each piece good until the next."""


def encoder_of(vocabulary: Vocabulary, counts: Counts, kernels: Kernels | None = None) -> PartEncoder:
    """The encoder of a vocabulary's units; `counts`: how often each code point occurs in all parts."""
    if vocabulary.units == "bytes":
        return ByteEncoder(vocabulary, counts)
    encoder = Encoder(vocabulary, counts, kernels)
    return encoder if vocabulary.units == "chars" else GraphemeEncoder(vocabulary, encoder)


class Encoder:
    """The ids of a text of which it is known what characters occur.

    A character that the vocabulary lacks becomes the bytes of its UTF-8, as in `Vocabulary.encode`.
    """

    def __init__(self, vocabulary: Vocabulary, counts: Counts, kernels: Kernels | None = None) -> None:
        """`counts`: how often each code point occurs in all that will be encoded."""
        self._kernels = kernels or Kernels()
        clusters = np.arange(FIRST_POINT, len(vocabulary.id_of_point))
        present = np.concatenate((np.flatnonzero(counts), clusters))
        ids = vocabulary.id_of_point[present]
        lacking = present[ids < 0]
        spellings = [vocabulary.spell(chr(point)) for point in lacking.tolist()]
        self._points, self._spellings = lacking, np.concatenate([*spellings, ids[:0]])
        self._lengths = np.array([len(spelling) for spelling in spellings], dtype=np.int64)
        most = int(max(ids.max(initial=0), self._spellings.max(initial=0)))
        self.dtype: np.dtype[Any] = np.min_scalar_type(most)
        table_type = np.min_scalar_type(most + 1)  # with a value to spare, for what is lacking
        self._lacking = np.iinfo(table_type).max
        self._table: NDArray[Any] = np.full(int(present.max(initial=0)) + 1, self._lacking, dtype=table_type)
        self._table[present[ids >= 0]] = ids[ids >= 0]
        self._pairs = self._table_of_pairs() if self._table.dtype == np.uint8 else None
        self._out = np.empty(0, dtype=self._table.dtype)

    def length(self, counts: Counts, blocks: Iterable[Codes] = ()) -> int:
        """How many ids a part becomes in which each code point occurs so often; `blocks` are its own."""
        there = self._points < len(counts)
        more = counts[self._points[there]] * (self._lengths[there] - 1)
        return int(counts.sum() + more.sum())

    def pieces(self, blocks: Iterable[Codes]) -> Iterator[Ids]:
        """The ids of a part, each piece good until the next."""
        return map(self.encode, blocks)

    def encode(self, codes: Codes) -> Ids:
        """The ids of a block: (n,), or more where characters are spelled in bytes.

        They are good until the next block is encoded, which may be written over them.
        """
        if len(codes) > len(self._out):
            self._out = np.empty(len(codes), dtype=self._table.dtype)
        ids = self._out[: len(codes)]
        if self._kernels.look_up(codes, self._table, ids):
            pass
        elif codes.dtype.itemsize == 1 and self._pairs is not None:
            even = len(codes) // 2 * 2
            self._pairs.take(codes[:even].view(np.uint16), out=ids[:even].view(np.uint16), mode="clip")
            ids[even:] = self._table[codes[even:]]
        else:
            for start in range(0, len(codes), AT_ONCE):
                piece = slice(start, start + AT_ONCE)
                self._table.take(codes[piece], out=ids[piece], mode="clip")
        if len(self._points):
            lacking = np.flatnonzero(ids == self._lacking)
            if len(lacking):
                ids = self._spelled(ids, codes, lacking)
        return ids.astype(self.dtype, copy=False)

    def _table_of_pairs(self) -> NDArray[np.uint16]:
        """For ASCII, where every id takes a byte: two characters at a time."""
        table = np.full(256, self._lacking, dtype=np.uint8)
        table[: min(256, len(self._table))] = self._table[:256]
        first, second = np.broadcast_arrays(table[None, :], table[:, None])
        low, high = (first, second) if sys.byteorder == "little" else (second, first)
        pairs: NDArray[np.uint16] = low.ravel() | (high.ravel().astype(np.uint16) << 8)
        return pairs

    def _spelled(self, ids: Ids, codes: Codes, lacking: NDArray[np.intp]) -> Ids:
        which = np.searchsorted(self._points, codes[lacking])
        more = self._lengths[which]
        lengths = np.ones(len(ids), dtype=np.int64)
        lengths[lacking] = more
        out = np.repeat(ids, lengths)
        # The k-th byte of a spelling: its place in `out`, and in the spellings one after another.
        k = np.arange(more.sum()) - np.repeat(np.cumsum(more) - more, more)
        places = np.repeat((np.cumsum(lengths) - lengths)[lacking], more) + k
        out[places] = self._spellings[np.repeat((np.cumsum(self._lengths) - self._lengths)[which], more) + k]
        return out


class ByteEncoder:
    """Characters as the bytes of their UTF-8, each an id."""

    def __init__(self, vocabulary: Vocabulary, counts: Counts) -> None:
        points = np.flatnonzero(counts)
        present = utf8_of("".join(map(chr, points.tolist())))
        most = int(vocabulary.id_of_byte_of_text[present].max(initial=0))
        self.dtype: np.dtype[Any] = np.min_scalar_type(most)
        self._table: NDArray[Any] = vocabulary.id_of_byte_of_text.astype(
            self.dtype
        )  # what is not present may not fit

    def length(self, counts: Counts, blocks: Iterable[Codes] = ()) -> int:
        """How many ids a part becomes in which each code point occurs so often; `blocks` are its own."""
        ends = int(counts[END_POINT : END_POINT + 1].sum())  # a symbol each, and no bytes
        return int(counts.sum() + sum(counts[first:].sum() for first in (0x80, 0x800, 0x10000))) - 2 * ends

    def pieces(self, blocks: Iterable[Codes]) -> Iterator[Ids]:
        """The ids of a part."""
        for codes in blocks:
            ascii_only = codes.dtype.itemsize == 1
            yield self._table.take(codes if ascii_only else utf8_of(_text(codes)))


class GraphemeEncoder:
    """Clusters that are known as an id each, and all else as characters."""

    def __init__(self, vocabulary: Vocabulary, chars: Encoder) -> None:
        """`chars` encodes what is in no known cluster."""
        self._chars, self._numbers = chars, vocabulary.number_of_cluster
        self.dtype = self._chars.dtype

    def length(self, counts: Counts, blocks: Iterable[Codes]) -> int:
        """How many ids the blocks of a part become."""
        return sum(map(len, self.pieces(blocks)))

    def pieces(self, blocks: Iterable[Codes]) -> Iterator[Ids]:
        """The ids of a part, each piece good until the next."""
        return (self._chars.encode(merged(codes, self._numbers)) for codes in whole(blocks))


def _text(codes: Codes) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

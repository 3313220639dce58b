"""Shards: the ids of a part of a text in files of a few GB, written one after another and read as one sequence."""

import stat
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm import files

SHARD_CHARS = 1 << 32
"""Most symbols in a shard: 4 GB where an id is a byte."""
CHECKED_WHOLE = 64 << 20
"""Bytes of a part up to which the checksum of all is checked before each use; of a longer one, that of samples."""
_SAMPLES, _SAMPLE = 64, 1 << 16
_FEWEST_SAMPLES = 2  # of a shard: its first ids and its last

Ids = NDArray[np.integer[Any]]
Index = NDArray[np.int64]


class Shards:
    """Several arrays of ids, read as one array (n,): by slices and by arrays of indices."""

    def __init__(self, arrays: Sequence[Ids], table: Ids | None = None) -> None:
        """`arrays`: the shards in order, of one type. `table`: maps ids when they are read."""
        self._arrays, self._table = arrays, table
        self._ends = list(accumulate(map(len, arrays)))
        self._begins = [0, *self._ends[:-1]]
        self.dtype = (arrays[0] if table is None else table).dtype

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, at: slice | Index) -> Ids:
        """Return the ids of a slice (a view where it lies in one shard and no table is set) or at indices, in their shape."""
        found = self._slice(at) if isinstance(at, slice) else self._take(at)
        return found if self._table is None else self._table[found]

    def translated(self, table: Ids) -> "Shards":
        """Return the same ids, each replaced by its entry in `table` when it is read."""
        assert self._table is None
        return Shards(self._arrays, table)

    def windows(self, starts: Index, stops: Index) -> Iterator[tuple[Index, Ids, int]]:
        """Yield arrays that contain the windows from `starts` to `stops`, (B,), as far as the text reaches.

        Each comes after the numbers of the windows it contains, and before its position in the text.
        """
        starts = starts.clip(0, len(self) - 1)
        stops = stops.clip(starts + 1, len(self))
        first, last = self._shard_of(starts), self._shard_of(stops - 1)
        alone = (first != last) | (self._table is not None)
        for k in np.unique(first[~alone]).tolist():
            yield np.flatnonzero(~alone & (first == k)), self._arrays[k], self._begins[k]
        for row in np.flatnonzero(alone).tolist():
            yield np.array([row]), self[starts[row] : stops[row]], int(starts[row])

    def _shard_of(self, at: Index) -> NDArray[np.intp]:
        return np.searchsorted(self._ends, at, side="right")

    def _slice(self, at: slice) -> Ids:
        start, stop, step = at.indices(len(self))
        assert step == 1
        if start >= stop:
            return self._arrays[0][:0]
        first, last = bisect_right(self._ends, start), bisect_right(self._ends, stop - 1)
        parts = [
            self._arrays[k][max(0, start - self._begins[k]) : stop - self._begins[k]]
            for k in range(first, last + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _take(self, at: Index) -> Ids:
        flat = at.reshape(-1)
        assert not len(flat) or flat.min() >= 0, "no place is counted from the end"
        order = np.argsort(flat, kind="stable")  # quick where places ascend in runs
        edges = np.searchsorted(flat[order], self._ends)
        found = np.empty(len(flat), self._arrays[0].dtype)
        assert not len(flat) or edges[-1] == len(flat), "places are within the text"
        for array, begin, here in zip(self._arrays, self._begins, np.split(order, edges[:-1]), strict=True):
            if len(here):
                found[here] = array[flat[here] - begin]
        return found.reshape(at.shape)


TextIds = Ids | Shards
"""The ids of a text: in one array, or in shards."""


@dataclass(frozen=True)
class Part:
    """Ids to write: how many, their type, and a function that yields them in pieces."""

    n: int
    dtype: "np.dtype[Any]"
    pieces: Callable[[], Iterable[Ids]]

    @property
    def shards(self) -> list[int]:
        """The number of symbols in each shard."""
        return [min(SHARD_CHARS, self.n - start) for start in range(0, max(1, self.n), SHARD_CHARS)]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard's entry in the index: its number of symbols, and checksums of all of them and of samples."""

    symbols: int | None = None  # None: the only shard of a part that charlm wrote before it had shards
    crc: int
    samples: int


def write_part(folder: Path, name: str, part: Part, *, synced: bool) -> list[Shard]:
    """Write the shards of a part and return their index. Raises OSError.

    With `synced`, each shard is synced to the disk before the next one is begun.
    """
    index, pieces, lengths = list[Shard](), iter(part.pieces()), part.shards
    piece: Ids = np.empty(0, part.dtype)
    for k, symbols in enumerate(lengths):
        path = _path(folder, name, k)
        with files.writing(path, synced=synced) as file:
            header = {"descr": part.dtype.str, "fortran_order": False, "shape": (symbols,)}
            np.lib.format.write_array_header_1_0(file, header)
            crc = written = 0
            while written < symbols:
                if not len(piece):
                    more = next(pieces, None)
                    assert more is not None, "the counts say how long a part is"
                    piece = more
                now, piece = piece[: symbols - written], piece[symbols - written :]
                file.write(now.data)
                crc, written = zlib.crc32(now.data, crc), written + len(now)
        samples = _sampled(_map(path), len(lengths))
        index.append(Shard(symbols=symbols, crc=crc, samples=samples))
    assert not len(piece) and not any(map(len, pieces)), "the counts say how long a part is"
    return index


def read_part(folder: Path, name: str, index: Sequence[Shard], *, whole: bool) -> TextIds:
    """Memory-map the ids of a part. Raises ValueError or OSError for what is damaged or missing.

    With `whole` every id is checked, however many there are.
    """
    arrays = [_map(_path(folder, name, k)) for k in range(len(index))]
    lengths = [
        len(array) if shard.symbols is None else shard.symbols
        for array, shard in zip(arrays, index, strict=True)
    ]
    if [(len(array), array.dtype) for array in arrays] != [(length, arrays[0].dtype) for length in lengths]:
        raise ValueError(f"{name} has other shards than its index")
    whole = whole or sum(array.nbytes for array in arrays) <= CHECKED_WHOLE
    for array, shard in zip(arrays, index, strict=True):
        if not (_crc(array) == shard.crc if whole else _sampled(array, len(index)) == shard.samples):
            raise ValueError(f"{name} is not what was written")
    return arrays[0] if len(arrays) == 1 else Shards(arrays)


def _path(folder: Path, name: str, k: int) -> Path:
    return folder / (f"{name}-{k}.npy" if k else f"{name}.npy")


def _crc(ids: Ids) -> int:
    """The CRC-32 of all ids."""
    crc, step = 0, max(1, CHECKED_WHOLE // ids.itemsize)
    for start in range(0, len(ids), step):
        crc = zlib.crc32(ids[start : start + step].data, crc)
    return crc


def _sampled(ids: Ids, n_shards: int) -> int:
    """Return the CRC-32 of evenly spread samples, including the first and the last ids; fewer each if shards are many."""
    samples = max(_FEWEST_SAMPLES, _SAMPLES // n_shards)
    crc = 0
    for start in np.linspace(0, max(0, len(ids) - _SAMPLE), samples).astype(int).tolist():
        crc = zlib.crc32(ids[start : start + _SAMPLE].data, crc)
    return crc


def _map(path: Path) -> Ids:
    if not stat.S_ISREG(path.lstat().st_mode):  # a pipe would wait for a writer
        raise ValueError(f"{path} is not a regular file")
    try:
        ids: Ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (SyntaxError, TokenError, EOFError):  # what NumPy raises for a damaged or missing header
        raise ValueError(f"{path} has no header") from None
    if ids.ndim != 1 or ids.dtype.kind != "u":
        raise ValueError(f"{path} holds no ids")
    return ids

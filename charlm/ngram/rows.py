"""The same rows as `KneserNey.fill`, to the last bit, by a compiled function."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.ngram.grams import Index, Keys
from charlm.ngram.kneser_ney import KneserNey

APART, LANES, UNKNOWN = 16, 8, -2  # as in rows.c

Pointer = ctypes.c_void_p
Size = ctypes.c_int64
ARRAYS = ("contexts", "marks", "starts", "symbols", "counts", "share", "discounts")
SIZES = ("n", "entries", "symbol_bytes", "count_bytes", "share_bytes", "known")


class _Level(ctypes.Structure):
    _fields_ = [*((name, Pointer) for name in ARRAYS), *((name, Size) for name in SIZES)]


class _Table(ctypes.Structure):
    _fields_ = [("levels", Pointer), ("base", Pointer), *((name, Size) for name in ("n", "bits", "V", "end"))]


class CRows:
    """Counts laid out for charlm/native/rows.c; what is pointed to is kept. Threads may share it."""

    def __init__(self, model: KneserNey, library: ctypes.CDLL) -> None:
        self._kept: list[NDArray[Any]] = []
        self._levels = (_Level * len(model.levels))(
            *(self._level(model, k) for k in range(len(model.levels)))
        )
        base = self._pointer(model.base)
        self._table = _Table(
            ctypes.addressof(self._levels),
            base,
            len(model.levels),
            model.packing.bits,
            model.n_symbols,
            -1 if model.packing.end is None else model.packing.end,
        )
        self._at = ctypes.addressof(self._table)
        self._room = (model.n_symbols + LANES) * (len(model.levels) + 1)
        self._n_folds, self.n_symbols, self.n_levels = model.n_folds, model.n_symbols, len(model.levels)
        self._call = library.rows
        self._call.argtypes = [Pointer, Pointer, Pointer, Size, Pointer, Pointer]
        self._call.restype = None
        self._move = library.move_on
        self._move.argtypes = [Pointer, Pointer, Pointer, Pointer, Size]
        self._move.restype = None
        self._call_moved = library.rows_of_moved
        self._call_moved.argtypes = [Pointer, Pointer, Pointer, Size, Pointer, Pointer]
        self._call_moved.restype = None

    @classmethod
    def of(cls, model: KneserNey, library: ctypes.CDLL | None) -> "CRows | None":
        """Those counts laid out; None where the function was not compiled."""
        return cls(model, library) if library is not None and hasattr(library, "rows") else None

    def following(self, contexts: Keys) -> "Following":
        """What reads on from those contexts (B,) and moves them on in place."""
        return Following(self, contexts)

    def fill(self, contexts: Keys, folds: Index | None, out: NDArray[np.float32]) -> None:
        """Put the rows of contexts (N,), without the fold of each (N,) if given, into out (N, V)."""
        contexts = np.ascontiguousarray(contexts, dtype=np.uint64)
        room = self.room()
        assert out.flags.c_contiguous and out.dtype == np.float32
        at = None
        if folds is not None:
            assert self._n_folds and len(folds) == len(contexts)
            folds = np.ascontiguousarray(folds, dtype=np.int64)
            at = folds.ctypes.data
        self.fill_at(contexts.ctypes.data, at, len(contexts), room.ctypes.data, out.ctypes.data)

    def fill_at(self, contexts: int, folds: int | None, n: int, room: int, out: int) -> None:
        """The same, of n contexts; all are addresses."""
        self._call(self._at, contexts, folds, n, room, out)

    def move_at(self, contexts: int, places: int, ids: int, n: int) -> None:
        """Move n contexts, and where each level has them, on by an id each; all are addresses."""
        self._move(self._at, contexts, places, ids, n)

    def fill_moved_at(self, contexts: int, places: int, n: int, room: int, out: int) -> None:
        """The rows of n contexts that were moved on, and where each level has them; all are addresses."""
        self._call_moved(self._at, contexts, places, n, room, out)

    def room(self) -> NDArray[np.float64]:
        """What `fill_at` works in."""
        return np.empty(self._room)

    def _level(self, model: KneserNey, k: int) -> _Level:
        level, known = model.levels[k], model.offsets
        share = model.shares[k].counts if model.shares else None
        arrays = (
            level.contexts,
            level.contexts[::APART],
            level.starts,
            level.symbols,
            level.counts,
            share,
            level.discounts,
        )
        return _Level(
            *map(self._pointer, arrays),
            len(level.contexts),
            len(level.counts),
            level.symbols.itemsize,
            level.counts.itemsize,
            share.itemsize if share is not None else 0,
            known[k] if k < len(known) else -1,
        )

    def _pointer(self, array: NDArray[Any] | None) -> int | None:
        if array is None:
            return None
        self._kept.append(np.require(array, requirements=("C", "A")))
        return self._kept[-1].ctypes.data


class Following:
    """Contexts (B,) of texts read character by character, moved on in place.

    A context that goes on by a symbol stands where the entry of that symbol says: hardly ever must it be
    looked up among all of them.
    """

    def __init__(self, rows: CRows, contexts: Keys) -> None:
        self._rows, self._B = rows, len(contexts)
        self._contexts, self._ids = contexts, np.empty(len(contexts), np.int64)
        self._places = np.full((rows.n_levels, len(contexts)), UNKNOWN, np.int64)
        self._room, self._out = rows.room(), np.empty((len(contexts), rows.n_symbols), np.float32)
        both = (self._contexts.ctypes.data, self._places.ctypes.data)
        self._moved = (*both, self._ids.ctypes.data, self._B)
        self._made = (*both, self._B, self._room.ctypes.data, self._out.ctypes.data)

    def read(self, ids: NDArray[np.int64]) -> None:
        """Move on by an id (B,) of each text."""
        self._ids[:] = ids
        self._rows.move_at(*self._moved)

    def leap(self) -> None:
        """The contexts were changed by somebody else."""
        self._places[:] = UNKNOWN

    def log_next(self) -> NDArray[np.float32]:
        """Log-probabilities (B, V) of what comes next; they hold until the next are asked for."""
        self._rows.fill_moved_at(*self._made)
        return np.log(self._out, out=self._out)

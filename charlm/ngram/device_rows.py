"""Rows of n-gram probabilities on a device, in torch: a lookup by sorted keys, equal to `KneserNey.rows` to 1e-6.

Nothing synchronises with the host: all shapes are known beforehand, since every symbol of every row is looked up.

Shapes: B windows, T positions, K the order, N rows, V symbols, E entries of a level, F folds.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from charlm.ngram.kneser_ney import LEAST, KneserNey
from charlm.ngram.table import NOWHERE, FoldCounts, Level, Longer, longer

NUMBERS_AT_ONCE = 1 << 24
"""Probabilities looked up at once, which bounds the memory."""


@dataclass(frozen=True)
class _DeviceLevel:
    """One order (`charlm.ngram.table.Level`) on the device."""

    keys: Tensor  # (E,), ascending: context * V + symbol
    counts: Tensor  # (E,)
    fold_counts: Tensor | None  # (F, E)
    longer: (
        Tensor | None
    )  # (E,): index of each entry as a context of the order above, -1: none; None: its own
    discounts: Tensor  # (4,)

    @classmethod
    def of(
        cls, level: Level, V: int, fold_counts: FoldCounts | None, above: Longer, device: torch.device
    ) -> "_DeviceLevel":
        """Copy a level to the device."""
        contexts = np.repeat(np.arange(len(level.contexts)), np.diff(level.starts).astype(np.int64))
        places = None
        if above is not None:
            places = np.where(above == NOWHERE, -1, above.astype(np.int64))
        exact = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64

        def on_device(numbers: np.typing.NDArray[np.integer]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(numbers)).to(device)

        return cls(
            keys=on_device(contexts * V + level.symbols),
            counts=on_device(level.counts.astype(np.int32)),
            fold_counts=None if fold_counts is None else on_device(fold_counts.astype(np.int32)),
            longer=None if places is None else on_device(places),
            discounts=torch.from_numpy(level.discounts).to(exact).to(device),
        )

    def find(self, at: Tensor, symbols: Tensor, V: int) -> Tensor:
        """Return the entries of symbols in contexts `at`, which broadcast; -1: never seen there."""
        wanted = at * V + symbols
        if not len(self.keys):
            return torch.full_like(wanted, -1)
        places = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
        found = (self.keys[places] == wanted) & (at >= 0) & (symbols < V)
        return places.where(found, -1)

    def interpolate(self, below: Tensor, at: Tensor, folds: Tensor | None) -> Tensor:
        """Return the probabilities (N, V) after contexts `at` (N,), without `folds` (N,), given those of the order below."""
        V = below.shape[1]
        entries = self.find(at[:, None], torch.arange(V, device=at.device), V)  # (N, V)
        if not len(self.keys):
            return below
        counts = self.counts[entries]
        if folds is not None and self.fold_counts is not None:
            counts = counts - self.fold_counts[folds[:, None], entries]
        counts = counts.where(entries >= 0, 0)
        capped = counts.clamp(max=3)
        total = counts.sum(dim=1, keepdim=True)
        seen = total > 0  # else the context was never seen, or only in the fold
        total = total.clamp(min=1)
        taken = self.discounts[capped]
        back = taken.sum(dim=1, keepdim=True) / total
        return torch.where(seen, (counts - taken) / total + back * below, below)


class DeviceNgrams:
    """A Kneser-Ney model on a device."""

    def __init__(self, model: KneserNey, device: torch.device) -> None:
        V, levels, folds = model.n_symbols, model.levels, model.fold_counts
        self.n_symbols, self.order = V, model.order
        above = [longer(level, higher) for level, higher in pairwise(levels)]
        self._levels = [
            _DeviceLevel.of(
                level, V, folds[k] if folds else None, above[k] if k < len(above) else None, device
            )
            for k, level in enumerate(levels)
        ]
        self._known = bool(len(levels[0].contexts))

    def log_rows(self, ids: Tensor, folds: Tensor | None = None) -> Tensor:
        """Return log-probabilities (B, T, V) of the symbol after each of the last T of ids (B, K + T); id V: no symbol.

        `folds` (B, T): the fold of each predicted symbol, which is left out.
        """
        V, T = self.n_symbols, ids.shape[1] - self.order
        contexts = [at[:, self.order :].reshape(-1) for at in self._contexts(ids)]
        flat = None if folds is None else folds.reshape(-1)
        out = torch.empty(len(ids) * T, V, device=ids.device)
        n = max(1, NUMBERS_AT_ONCE // V)
        for i in range(0, len(out), n):
            part = slice(i, i + n)
            rows = torch.full_like(out[part], 1 / V, dtype=self._levels[0].discounts.dtype)
            for level, at in zip(self._levels, contexts, strict=True):
                rows = level.interpolate(rows, at[part], None if flat is None else flat[part])
            out[part] = rows.float().clamp_(min=float(LEAST)).log_()
        return out.view(len(ids), T, V)

    def _contexts(self, ids: Tensor) -> list[Tensor]:
        """Return the context after each symbol, for each order: (B, K + T)."""
        B, n = ids.shape
        at = torch.full((B, n + 1), 0 if self._known else -1, device=ids.device)
        found = []
        for level in self._levels:
            found.append(at[:, 1:])
            entries = level.find(at[:, :-1], ids, self.n_symbols)
            places = entries if level.longer is None or not len(level.keys) else level.longer[entries]
            at = torch.full_like(at, -1)
            at[:, 1:] = places.where(entries >= 0, -1)
        return found

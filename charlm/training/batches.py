"""The batches of a training run: ids, rows of the n-gram prior and soft targets, each a pure function of the step.

On a GPU the next batch is made while a step is computed, and copied from pinned memory.

Axes: B windows, T symbols, K the prior's order, V symbols of the model.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.data.corpus import BatchSampler
from charlm.data.shards import TextIds
from charlm.ngram.build import TrainingPrior
from charlm.ngram.device_rows import DeviceNgrams
from charlm.rng import uniform
from charlm.training.device import is_accelerator, send
from charlm.training.teacher import SoftTargets

PRIOR_DROPOUT_STREAM = 2
"""Separates the random numbers of prior dropout from those that draw the windows."""
RESIDENT_BYTES = 1 << 30
"""The prior's rows of all positions stay on the device if they fit: in half precision, 130 MB for a million characters
of a vocabulary of 65. Otherwise the rows of each batch are looked up."""
WINDOW = 256
"""Positions per window when the resident rows are looked up."""


class Batch(NamedTuple):
    """The inputs of a step, on its device."""

    ids: Tensor  # (B, T + 1)
    log_prior: Tensor | None  # (B, T, V)
    soft: Tensor | None  # (B, T, V)


class PriorRows:
    """The n-gram prior at every position of a batch, without the counts of the fold that the position is in."""

    def __init__(self, prior: TrainingPrior, sampler: BatchSampler, dropout: float) -> None:
        self.prior, self.sampler, self.dropout = prior, sampler, dropout

    def batch(self, step: int, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Return the log-probabilities (B, T, V) of `rows` of the batch: a pure function of the step.

        Windows whose prior is dropped have zeros.
        """
        found = self.prior.log_rows(self.sampler.starts(step)[rows], self.sampler.block_size)
        if self.dropout:
            found[self.dropped(step, rows)] = 0
        return found

    def dropped(self, step: int, rows: slice) -> NDArray[np.bool_]:
        """Return whether each of the windows (B,) of a step gets no prior."""
        windows = np.arange(self.sampler.batch_size)[rows]
        draws = uniform(self.sampler.seed, step, windows, PRIOR_DROPOUT_STREAM)
        return draws < self.dropout


class _DeviceRows(Protocol):
    """Rows of the prior that are computed on the device."""

    def after(self, starts: NDArray[np.int64], T: int) -> Tensor:
        """Return log-probabilities (B, T, V) after each of T positions from each of `starts` (B,)."""


class _LookedUp:
    """Rows of the prior that are looked up for each batch."""

    def __init__(self, prior: TrainingPrior, device: torch.device) -> None:
        self._prior, self._device = prior, device
        self._ngrams = DeviceNgrams(prior.model, device)

    def after(self, starts: NDArray[np.int64], T: int) -> Tensor:
        """Return log-probabilities (B, T, V) after each of T positions from each of `starts` (B,)."""
        prior, K, V = self._prior, self._ngrams.order, self._ngrams.n_symbols
        at = starts[:, None] + np.arange(-K, T)
        inside = (at >= 0) & (at < len(prior.train))
        ids = np.where(inside, prior.train[np.clip(at, 0, len(prior.train) - 1)], np.int64(V))
        folds = np.searchsorted(prior.folds[1:-1], at[:, K:] + 1, side="right")
        sent = send(torch.from_numpy(np.concatenate((ids, folds), axis=1)), self._device)
        return self._ngrams.log_rows(sent[:, : K + T], sent[:, K + T :])


class _Resident:
    """Rows of the prior at all positions, computed once."""

    def __init__(self, prior: TrainingPrior, n: int, device: torch.device) -> None:
        looked_up, V = _LookedUp(prior, device), prior.model.n_symbols
        self._device, self._rows = device, torch.empty(n, V, dtype=torch.float16, device=device)
        starts = np.arange(0, n, WINDOW)
        at_once = max(1, (1 << 24) // (V * WINDOW))
        for i in range(0, len(starts), at_once):
            some = looked_up.after(starts[i : i + at_once], WINDOW).flatten(0, 1)  # (N, V)
            first = i * WINDOW
            self._rows[first : first + len(some)] = some[: n - first].half()

    def after(self, starts: NDArray[np.int64], T: int) -> Tensor:
        """Return log-probabilities (B, T, V) after each of T positions from each of `starts` (B,)."""
        sent = send(torch.from_numpy(starts), self._device)
        return self._rows[sent[:, None] + torch.arange(T, device=self._device)].float()


class Batches:
    """The batches of the member in training."""

    def __init__(
        self,
        train: TextIds,
        sampler: BatchSampler,
        prior_rows: PriorRows | None,
        device: torch.device,
        soft_targets: SoftTargets | None = None,
        rows: slice = slice(None),
    ) -> None:
        """`rows`: the rows of each batch that this rank reads."""
        self._own = rows
        self._train, self._sampler, self._prior_rows, self._device = train, sampler, prior_rows, device
        self.soft_targets = soft_targets
        self._rows: _DeviceRows | None = None
        self._ahead: tuple[int, Batch] | None = None
        if prior_rows is not None and is_accelerator(device):
            prior, n = prior_rows.prior, sampler.n
            fits = n * prior.model.n_symbols * 2 <= RESIDENT_BYTES
            self._rows = _Resident(prior, n, device) if fits else _LookedUp(prior, device)

    def take(self, step: int) -> Batch:
        """Return the batch of a step, which may have been made ahead."""
        made, self._ahead = self._ahead, None
        return made[1] if made is not None and made[0] == step else self._make(step)

    def make_ahead(self, step: int) -> None:
        """On a GPU, make the batch of a later step while the device computes."""
        if is_accelerator(self._device):
            self._ahead = step, self._make(step)

    def forget_ahead(self) -> None:
        """Drop the batch made ahead, since settings that it depends on have changed."""
        self._ahead = None

    def _make(self, step: int) -> Batch:
        windows = self._sampler.batch(self._train, step, self._own)
        starts = self._sampler.starts(step)[self._own]
        ids, soft = send(torch.from_numpy(windows), self._device), None
        if self.soft_targets is not None:
            soft = send(torch.from_numpy(self.soft_targets.batch(windows, starts)), self._device)
        return Batch(ids, self._log_prior(step, starts), soft)

    def _log_prior(self, step: int, starts: NDArray[np.int64]) -> Tensor | None:
        prior = self._prior_rows
        if prior is None:
            return None
        if self._rows is None:
            return send(torch.from_numpy(prior.batch(step, self._own)), self._device)
        rows = self._rows.after(starts, self._sampler.block_size)
        if prior.dropout:
            kept = send(torch.from_numpy(~prior.dropped(step, self._own)), self._device)
            rows *= kept[:, None, None]
        return rows

"""What is kept of texts that a model reads character by character.

Axes: B texts side by side, T positions, V symbols.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.context import ContextRule
from charlm.counts.grams import Keys
from charlm.counts.kneser_ney import KneserNey
from charlm.counts.prior import log_next
from charlm.model.c_stepper import CStepper
from charlm.model.cache import Cache
from charlm.model.language_model import LanguageModel
from charlm.model.stepper import Stepper


def read_on(
    model: LanguageModel, ids: Tensor, cache: Cache, end: int | None, log_prior: Tensor | None
) -> tuple[Tensor, Cache]:
    """What the head reads of ids (1, T) that go on from a state: (1, T, C), and the state after them.

    Every document begins with an empty one; `end` is the id that one begins with. `log_prior` (1, T, V)
    is what the counts say, if there are any.
    """
    begins = [] if end is None else (ids[0] == end).nonzero()[:, 0].tolist()
    found = []
    for start, stop in pairwise([0, *(at for at in begins if at), ids.shape[1]]):
        cache = model.cache(1) if start in begins else cache
        known = None if log_prior is None else log_prior[:, start:stop]
        found.append(model.hidden(ids[:, start:stop], cache, log_prior=known))
    return torch.cat(found, dim=1), cache


class TextState:
    """What is kept of the texts read: the ids in sight, and what the model and the counts keep of them."""

    def __init__(
        self,
        rule: ContextRule,
        batch_size: int,
        cache: Cache | None,
        stepper: Stepper | CStepper | None,
        counts: KneserNey | None = None,
    ) -> None:
        self.rule = rule
        self.cache, self.stepper = cache, stepper  # one of them: torch's, or that of the fast path
        self.length = 0  # characters read so far
        self.start = 0  # where the text that the cache holds begins
        self.ids = np.empty((batch_size, 0 if rule.carried else rule.block_size), dtype=np.int64)
        self.counts = counts  # that the model begins from, if it does
        self._last = counts.start(batch_size) if counts is not None else None  # the contexts' keys, (B,)
        filler = None if counts is None else counts.filler
        self._following = filler.following(self._last) if filler and self._last is not None else None
        self._keys = np.empty(self.ids.shape, dtype=np.uint64)  # those after each of the ids in sight
        self._unread: Keys | None = None  # those after the ids that are to be read, (B, T)

    @property
    def held(self) -> int:
        """How many characters of a text are in sight."""
        return self.length - self.start

    def take(self, ids: NDArray[np.int64]) -> int | None:
        """Note ids (B, T) as read; from where on those in sight are to be read, None for all of them anew."""
        T, held = ids.shape[1], self.held
        self.length += T
        keys = self._look(ids)
        start = self.rule.start(self.length)
        if start == self.start:
            if not self.rule.carried:
                self.ids[:, held : held + T] = ids
                self._keys[:, held : held + T] = keys
            self._unread = keys
            return held
        self.start = start
        kept = max(0, self.held - T)
        for there, new in ((self.ids, ids), (self._keys, keys)):
            there[:, :kept] = there[:, held - kept : held]
            there[:, kept : self.held] = new[:, T - (self.held - kept) :]
        self._unread = self._keys[:, : self.held]
        return None

    def log_prior(self) -> NDArray[np.floating[Any]] | None:
        """What the counts say, if there are any, after each of the ids that are to be read: (B, T, V)."""
        if self.counts is None or self._unread is None:
            return None
        if self._following is not None and self._unread.shape[1] == 1:
            return self._following.log_next()[:, None]
        keys = self._unread.reshape(-1)
        known = self.counts
        rows = log_next(known, keys) if known.filler is None else known.log_rows(keys)
        return rows.reshape(*self._unread.shape, -1)

    def _look(self, ids: NDArray[np.int64]) -> Keys:
        """Move the counts' contexts on by ids (B, T): the keys of those that end at each, (B, T)."""
        if self._following is not None and self._last is not None and ids.shape[1] == 1:
            self._following.read(ids[:, 0])
            return self._last[:, None]
        keys = np.empty(ids.shape, dtype=np.uint64)
        if self.counts is None or self._last is None:
            return keys
        order = self.counts.order
        for t, column in enumerate(ids.T[:order]):
            if self._following is not None:
                self._following.read(column)
            else:
                self._last[:] = self.counts.step(self._last, column)
            keys[:, t] = self._last
        if ids.shape[1] > order:  # from there on they know nothing of what was read before
            keys[:, order:] = self.counts.contexts(ids)[:, order:]
            self._last[:] = keys[:, -1]
            if self._following is not None:
                self._following.leap()
        return keys

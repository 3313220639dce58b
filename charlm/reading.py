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
from charlm.counts.c_rows import CRows
from charlm.counts.kneser_ney import KneserNey
from charlm.counts.prior import log_next
from charlm.model.c_stepper import CStepper
from charlm.model.cache import Cache
from charlm.model.language_model import LanguageModel
from charlm.model.stepper import Stepper


def read_on(model: LanguageModel, ids: Tensor, cache: Cache, end: int | None) -> tuple[Tensor, Cache]:
    """What the head reads of ids (1, T) that go on from a state: (1, T, C), and the state after them.

    Every document begins with an empty one; `end` is the id that one begins with.
    """
    begins = [] if end is None else (ids[0] == end).nonzero()[:, 0].tolist()
    found = []
    for start, stop in pairwise([0, *(at for at in begins if at), ids.shape[1]]):
        cache = model.cache(1) if start in begins else cache
        found.append(model.hidden(ids[:, start:stop], cache))
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
        rows: CRows | None = None,
    ) -> None:
        self.rule = rule
        self.cache, self.stepper = cache, stepper  # one of them: torch's, or that of the fast path
        self.length = 0  # characters read so far
        self.start = 0  # where the text that the cache holds begins
        self.ids = np.empty((batch_size, 0 if rule.carried else rule.block_size), dtype=np.int64)
        self.counts, self._rows = counts, rows  # that the model begins from, if it does; rows faster
        self.contexts = counts.start(batch_size) if counts is not None else None  # (B,)

    @property
    def held(self) -> int:
        """How many characters of a text are in sight."""
        return self.length - self.start

    def take(self, ids: NDArray[np.int64]) -> int | None:
        """Note ids (B, T) as read; from where on those in sight are to be read, None for all of them anew."""
        T, held = ids.shape[1], self.held
        self.length += T
        start = self.rule.start(self.length)
        if start == self.start:
            if not self.rule.carried:
                self.ids[:, held : held + T] = ids
            self._look(ids)
            return held
        self.start = start
        kept = max(0, self.held - T)
        self.ids[:, :kept] = self.ids[:, held - kept : held]
        self.ids[:, kept : self.held] = ids[:, T - (self.held - kept) :]
        if self.counts is not None:  # they do not look back beyond what is in sight either
            self.contexts = self.counts.start(len(ids))
            self._look(self.ids[:, : self.held])
        return None

    def log_next(self) -> NDArray[np.floating[Any]] | None:
        """What the counts say of what comes next, if there are any: (B, V)."""
        if self.counts is None or self.contexts is None:
            return None
        if self._rows is not None:
            return self._rows.log_next(self.contexts)
        return log_next(self.counts, self.contexts)

    def _look(self, ids: NDArray[np.int64]) -> None:
        """Move the counts' contexts on by ids (B, T)."""
        if self.counts is None or self.contexts is None:
            return
        for column in ids.T[-max(1, self.counts.order) :]:
            self.contexts = self.counts.step(self.contexts, column)

"""What is kept of texts that a model reads character by character.

Axes: B texts side by side, T positions, V symbols.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.context import ContextRule
from charlm.counts.kneser_ney import KneserNey
from charlm.counts.prior import log_next
from charlm.model.c_stepper import CStepper
from charlm.model.cache import Cache
from charlm.model.stepper import Stepper


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
        self.contexts = counts.start(batch_size) if counts is not None else None  # (B,)
        filler = counts.filler if counts is not None else None
        self._following = filler.following(self.contexts) if filler and self.contexts is not None else None

    @property
    def held(self) -> int:
        """How many characters of a text are in sight."""
        return self.length - self.start

    def take(self, ids: NDArray[np.int64]) -> int | None:
        """Note ids (B, T) as read; from where on those in sight are to be read, None for all of them anew."""
        T, held = ids.shape[1], self.held
        self.length += T
        self._look(ids)
        start = self.rule.start(self.length)
        if start == self.start:
            if not self.rule.carried:
                self.ids[:, held : held + T] = ids
            return held
        self.start = start
        kept = max(0, self.held - T)
        self.ids[:, :kept] = self.ids[:, held - kept : held]
        self.ids[:, kept : self.held] = ids[:, T - (self.held - kept) :]
        return None

    def log_next(self) -> NDArray[np.floating[Any]] | None:
        """What the counts say of what comes next, if there are any: (B, V)."""
        if self.counts is None or self.contexts is None:
            return None
        if self._following is not None:
            return self._following.log_next()
        return log_next(self.counts, self.contexts)

    def _look(self, ids: NDArray[np.int64]) -> None:
        """Move the counts' contexts on by ids (B, T)."""
        if self.counts is None or self.contexts is None:
            return
        columns = (ids[:, 0],) if ids.shape[1] == 1 else ids.T[-max(1, self.counts.order) :]
        for column in columns:
            if self._following is not None:
                self._following.read(column)
            else:
                self.contexts = self.counts.step(self.contexts, column)

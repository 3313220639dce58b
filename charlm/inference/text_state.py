"""The state of texts that are read step by step, for an n-gram model and for a transformer.

Shapes: B texts, T new ids, V symbols, W block size.
"""

import numpy as np
from numpy.typing import NDArray

from charlm.inference.context import ContextRule
from charlm.model.kv_cache import ModelCache
from charlm.native.decoder import CDecoder, Floats32
from charlm.ngram.kneser_ney import KneserNey, log_float32

IdRows = NDArray[np.int64]


class NgramState:
    """The state of B texts in an n-gram model, shared by the model and the transformers that it is the prior of."""

    def __init__(self, model: KneserNey, batch_size: int) -> None:
        self.model = model
        self._cursor = model.cursor(batch_size)
        self._log_next: Floats32 | None = None

    def read(self, ids: IdRows) -> None:
        """Read the next ids (B, T)."""
        self._cursor.read(ids)
        self._log_next = None

    def log_next(self) -> Floats32:
        """Return log-probabilities (B, V) of the next symbol, computed once for all users."""
        if self._log_next is None:
            self._log_next = log_float32(self._cursor.next())
        return self._log_next


class TextState:
    """The ids in view of B texts, the layers' caches (torch's or the fast decoder's), and the prior's state.

    When the window moves on, the ids that stay in view have to be computed again from position 0. The n-gram prior is not
    bound by the window, so the ids just before it are kept too.
    """

    def __init__(
        self,
        rule: ContextRule,
        batch_size: int,
        decoder: CDecoder | None,
        prior: NgramState | None = None,
    ) -> None:
        self.decoder, self.prior = decoder, prior
        self.cache: ModelCache | None = None  # torch's, from the first id on
        self.length = 0  # characters read so far
        self._rule, self._start = rule, 0  # where the window begins
        self._order = prior.model.order if prior else 0
        in_view = 0 if rule.carried else rule.block_size
        boundary = prior.model.n_symbols if prior else 0
        self._ids = np.full(
            (batch_size, self._order + in_view), boundary
        )  # those before the window come first
        self._unread = self._ids[:, :0]

    @property
    def in_view(self) -> IdRows:
        """The ids of the window."""
        return self._ids[:, self._order : self._order + self.length - self._start]

    @property
    def unread(self) -> IdRows:
        """The ids that the model has yet to compute: (B, T) new ones, or all in view after the window moved."""
        return self._unread[:, self._order :]

    def append(self, ids: IdRows) -> int:
        """Append ids (B, T) to the texts. Returns how many ids of the window the cache holds already."""
        T, order = ids.shape[1], self._order
        in_cache = self.length - self._start
        filled = order + in_cache
        self.length += T
        start = self._rule.start(self.length)
        if self._rule.carried:
            self._unread = np.concatenate((self._ids, ids), axis=1)
            self._ids = self._unread[:, T:]
        elif start == self._start:
            self._ids[:, filled : filled + T] = ids
            self._unread = self._ids[:, in_cache : filled + T]
        else:
            text = np.concatenate((self._ids[:, :filled], ids), axis=1)
            self._start, in_cache = start, 0
            filled = order + self.length - start
            self._ids[:, :filled] = text[:, text.shape[1] - filled :]
            self._unread = self._ids[:, :filled]
        return in_cache

    def log_prior(self) -> Floats32 | None:
        """Return the prior's log-probabilities (B, T, V) after each unread id, once it has read them; None without it."""
        if self.prior is None:
            return None
        B, T = self.unread.shape
        if T == 1:
            return self.prior.log_next()[:, None]
        starts = np.arange(B) * (self._order + T) + self._order
        return self.prior.model.log_rows(self._unread.reshape(-1), starts, T)

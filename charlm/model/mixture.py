"""A mixture: pools the predictions of a run's members, with mixture weights that depend on how sure each member is.

Shapes: M members, N positions, V symbols, F = 2 M features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from charlm.model.recent_ngrams import RecentNgrams
from charlm.native.mixture_kernel import MOST_MEMBERS, Floats, Floats32

FLOOR = -1e4
"""Lower bound of log-probabilities relative to the highest, so that weights of any sign give a distribution."""
MOST_WEIGHT = 1e6
"""Bound on all mixture weights: far above any fit, low enough that nothing overflows."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A logarithmic opinion pool whose weights depend on the context.

    log p(s | x) = sum over members i of a_i(x) log p_i(s | x) - log Z(x), a(x) = b + W f(x). The features f are
    the entropy (nats) and the highest probability of each member, so the gate can trust members whose
    confidence is justified. A single member has no features: a = b = 1 / temperature (Guo et al. 2017, arXiv
    1706.04599). All of it is fitted on text that no member was trained on, and the fit is convex: it has one solution.
    Pools: Genest and Zidek 1986, Statistical Science 1:114.
    """

    n_transformers: int  # members: the first transformers of a run
    ngram: bool  # and its n-gram model, the last member
    bias: tuple[float, ...]  # b, (M,)
    weights: tuple[tuple[float, ...], ...]  # W, (M, F); empty rows for a single member
    recent: RecentNgrams | None = None  # corrects the pooled prediction

    def __post_init__(self) -> None:
        M = self.n_members
        if not (0 < self.n_transformers <= M <= MOST_MEMBERS and len(self.bias) == len(self.weights) == M):
            raise ValueError(
                f"the mixture of {M} members has {len(self.bias)} and {len(self.weights)} weights"
            )
        n_features = 2 * M if M > 1 else 0
        numbers = [*self.bias, *(weight for row in self.weights for weight in row)]
        fitting = all(len(row) == n_features for row in self.weights)
        if not fitting or not all(abs(number) <= MOST_WEIGHT for number in numbers):
            raise ValueError(f"the mixture's weights must be at most {MOST_WEIGHT:,.0f}, and fit its members")
        if M == 1 and not 0.05 <= self.bias[0] <= 20:
            raise ValueError(f"the temperature of the mixture is 1 / {self.bias[0]}; allowed: 0.05 to 20")

    @property
    def n_members(self) -> int:
        """M."""
        return self.n_transformers + self.ngram

    @property
    def temperature(self) -> float | None:
        """The temperature of a single member; None if there are several."""
        return 1 / self.bias[0] if self.n_members == 1 else None

    def tempered(self, temperature: float) -> "Mixture":
        """Return a mixture that predicts p^(1 / temperature), normalised, where this one (recent n-grams included) predicts p."""
        if self.recent is not None:
            return replace(self, recent=replace(self.recent, temperature=temperature))
        weights = tuple(tuple(weight / temperature for weight in row) for row in self.weights)
        return replace(self, bias=tuple(b / temperature for b in self.bias), weights=weights)

    def shares(self, logps: Sequence[Floats32]) -> Floats32:
        """Return the mixture weights a(x), (N, M), from log-probabilities (N, V) of each member."""
        bias = np.array(self.bias, np.float32)
        if self.n_members == 1:
            return np.broadcast_to(bias, (len(logps[0]), 1))
        shares: Floats32 = features(logps) @ np.array(self.weights, np.float32).T + bias
        return shares

    def log_probs(self, logits: Sequence[Floats]) -> Floats32:
        """Pool the logits or log-probabilities (N, V) of each member to log-probabilities (N, V), as mixture.c does."""
        logps = [log_normalised(of_member.astype(np.float32)) for of_member in logits]
        shares = self.shares(logps)
        return log_normalised(sum(shares[:, i, None] * logp for i, logp in enumerate(logps)))  # type: ignore[arg-type]


def log_normalised(scores: Floats32) -> Floats32:
    """Normalise scores (N, V) to log-probabilities."""
    shifted = np.maximum(scores - scores.max(axis=-1, keepdims=True), np.float32(FLOOR))
    normalised: Floats32 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def features(logps: Iterable[Floats32]) -> Floats32:
    """Return the entropy and the highest probability of each member: (N, F)."""
    found = []
    for logp in logps:
        p = np.exp(logp)
        found += [-(p * logp).sum(axis=-1), p.max(axis=-1)]
    return np.stack(found, axis=-1)

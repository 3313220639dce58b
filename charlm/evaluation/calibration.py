"""Calibration: whether a prediction made with 60 % confidence is right in 60 % of the cases.

Shapes: N predictions, V symbols of the vocabulary, M = BINS.
"""

from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.evaluation.bootstrap import Numbers

BINS = 15


@dataclass(frozen=True, eq=False)
class Reliability:
    """Calibration: whether a model is as sure as it is right.

    confidence = max over v of p(v), and a prediction is right if that symbol came next. The
    predictions are sorted into 15 bins of equal width by their confidence. The expected
    calibration error is ECE = sum over bins b of n_b / N |accuracy_b - confidence_b|. A model that
    is trained too long on too little text says 70 % and is right in 60 %; a temperature above 1
    repairs that, and changes no guess. Even a calibrated model shows an error above 0, since its
    bins are finite samples. Guo et al. 2017, On calibration of modern neural networks, arXiv
    1706.04599.
    """

    counts: NDArray[np.int64]  # (M,) predictions
    sums: Numbers  # (M,) of their confidence
    right: NDArray[np.int64]  # (M,)

    @classmethod
    def of(cls, logp: Tensor, targets: Tensor) -> "Reliability":
        """Measure predictions, given their log-probabilities (N, V) and the symbols that came next (N,)."""
        highest, guesses = logp.max(dim=1)
        confidence = highest.double().exp().numpy()
        bins = np.clip(np.nan_to_num(confidence * BINS), 0, BINS - 1).astype(np.int64)
        right = bins[torch.eq(guesses, targets).numpy()]
        sums = np.bincount(bins, confidence, BINS).astype(np.float64)
        return cls(np.bincount(bins, minlength=BINS), sums, np.bincount(right, minlength=BINS))

    @classmethod
    def empty(cls) -> "Reliability":
        """Return the reliability of no predictions, to which others can be added."""
        none = np.zeros(BINS, dtype=np.int64)
        return cls(none, np.zeros(BINS), none)

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(self.counts + other.counts, self.sums + other.sums, self.right + other.right)

    @property
    def n(self) -> int:
        """N, the number of predictions."""
        return int(self.counts.sum())

    @property
    def confidence(self) -> float:
        """Mean confidence."""
        return float(self.sums.sum()) / self.n

    @property
    def accuracy(self) -> float:
        """The share of predictions that were right."""
        return int(self.right.sum()) / self.n

    @property
    def ece(self) -> float:
        """The expected calibration error."""
        return float(np.abs(self.right - self.sums).sum()) / self.n

    @property
    def ece_by_chance(self) -> float:
        """The calibration error to expect of the same predictions if they were calibrated, about.

        Each is then right with its stated probability, whatever came before; so the number of right ones in a bin has
        the variance n c (1 - c), and a normal variable's mean distance from its mean is sqrt(2 / pi) deviations.
        """
        variances = self.sums * (1 - self.sums / np.maximum(self.counts, 1))
        return sqrt(2 / pi) * float(np.sqrt(np.maximum(variances, 0)).sum()) / self.n

    @property
    def bins(self) -> list[tuple[float, float, int]]:
        """Mean confidence, accuracy and number of predictions of each bin that has any."""
        return [
            (float(confidence) / n, right / n, n)
            for n, confidence, right in zip(self.counts.tolist(), self.sums, self.right.tolist(), strict=True)
            if n
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the figures and all bins; confidence and accuracy of an empty bin are null."""
        rows = zip(self.counts.tolist(), self.sums.tolist(), self.right.tolist(), strict=True)
        return {
            "ece": self.ece,
            "ece_by_chance": self.ece_by_chance,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
            "bins": [
                {
                    "from": i / BINS,
                    "to": (i + 1) / BINS,
                    "n": n,
                    "confidence": total / n if n else None,
                    "accuracy": right / n if n else None,
                }
                for i, (n, total, right) in enumerate(rows)
            ],
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Reliability":
        """Read the bins that `to_json` returned. Raises ValueError if they are malformed."""
        rows = plain.get("bins")
        if not isinstance(rows, list) or len(rows) != BINS:
            raise ValueError(f"expected {BINS} bins")
        counts, sums, right = zip(*map(_read_bin, rows), strict=True)
        if not sum(counts):
            raise ValueError("the bins are empty")
        return cls(np.array(counts), np.array(sums), np.array(right))


def _read_bin(row: Any) -> tuple[int, float, int]:
    """Return number, sum of confidence and number of right predictions of a bin. Raises ValueError if malformed."""
    n = row.get("n") if isinstance(row, dict) else None
    if type(n) is not int or not 0 <= n < 2**53:
        raise ValueError("a bin without its number of predictions")
    if not n:
        return 0, 0.0, 0
    confidence, accuracy = row.get("confidence"), row.get("accuracy")
    for share in (confidence, accuracy):
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise ValueError("a share that is not from 0 to 1")
    return n, confidence * n, round(accuracy * n)

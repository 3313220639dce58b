"""Compare two trained runs on the same text: the difference of their losses, and where each is better."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.evaluation.bootstrap import confidence_interval
from charlm.evaluation.report import Evaluation

SCHEMA = 1
PASSAGE = 60  # characters
MOST_PASSAGES = 5


@dataclass(frozen=True)
class Passage:
    """A stretch of text, and the bits that each run spends on it."""

    file: str
    offset: int  # characters before it
    text: str
    bits: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """The comparison of two runs, in bits per character; negative differences: the first is better."""

    names: tuple[str, str]
    evaluations: tuple[Evaluation, Evaluation]
    difference: float
    interval: tuple[float, float] | None
    better: tuple[tuple[Passage, ...], tuple[Passage, ...]]  # where the first is better, where the second is

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON form, of schema 1."""
        return {
            "schema": SCHEMA,
            "kind": "two runs",
            "runs": [
                {"run": name, **evaluation.to_json()}
                for name, evaluation in zip(self.names, self.evaluations, strict=True)
            ],
            "difference_bits_per_char": self.difference,
            "ci95_difference": list(self.interval) if self.interval else None,
            "seed_noise_included": False,
            "better": {
                which: [asdict(passage) for passage in passages]
                for which, passages in zip(("first", "second"), self.better, strict=True)
            },
        }


def side_by_side(names: tuple[str, str], evaluations: tuple[Evaluation, Evaluation]) -> SideBySide:
    """Compare two runs by the bits that they spend on each character of the same texts."""
    first, second = (evaluation.figure for evaluation in evaluations)
    if [scored.text for scored in first.texts] != [scored.text for scored in second.texts]:
        raise UsageError("the two runs were not scored on the same text")
    gaps = [a.bits - b.bits for a, b in zip(first.texts, second.texts, strict=True)]
    difference = np.concatenate(gaps)
    return SideBySide(
        names=names,
        evaluations=evaluations,
        difference=float(difference.mean()),
        interval=confidence_interval(difference),
        better=(_passages(evaluations, gaps, 1.0), _passages(evaluations, gaps, -1.0)),
    )


def _passages(
    evaluations: tuple[Evaluation, Evaluation], gaps: Sequence[NDArray[np.float64]], sign: float
) -> tuple[Passage, ...]:
    """Return the non-overlapping stretches in which the first (1) or the second (-1) saves most."""
    found: list[tuple[float, Passage]] = []
    texts = zip(evaluations[0].figure.texts, evaluations[1].figure.texts, gaps, strict=True)
    for first, second, gap in texts:
        length = min(PASSAGE, len(gap))
        total = np.concatenate(([0.0], np.cumsum(gap)))
        sums = sign * (total[length:] - total[: len(total) - length])
        for start in _lowest_apart(sums, length):
            part = slice(start, start + length)
            bits = float(first.bits[part].sum()), float(second.bits[part].sum())
            found.append((float(sums[start]), Passage(first.name, start, first.text[part], bits)))
    found.sort(key=lambda item: item[0])
    return tuple(passage for _, passage in found[:MOST_PASSAGES])


def _lowest_apart(sums: NDArray[np.float64], length: int) -> list[int]:
    """Return where the lowest negative sums begin, at least `length` apart."""
    left = sums.copy()
    starts: list[int] = []
    while len(starts) < MOST_PASSAGES and len(left) and (at := int(left.argmin())) >= 0 and left[at] < 0:
        starts.append(at)
        left[max(0, at - length + 1) : at + length] = np.inf
    return starts

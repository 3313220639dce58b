"""What trainings ended at that were measured, and what they let one expect of another text.

The rows are those of benchmarks/NOTES.md, "what a training gains on its counts": after so long the
model's nats were such a share of what Kneser-Ney makes of the same text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

MACHINE = "two cores of an AMD EPYC without bf16, shared, at 72 to 138 GFLOP/s"
LIKE = 4
"""A text up to so many times shorter or longer than all that were measured is taken for one of their size."""
AS_HARD = 1.5
MOSTLY = 0.9


@dataclass(frozen=True)
class Measured:
    """A text that was trained on, and the held-out tenth of it, in nats per character."""

    name: str
    language: str
    train_chars: int
    kneser_ney: float  # what the training part's n-grams alone make of it
    trained: Mapping[int, tuple[float, ...]]  # by seconds of training, a seed each

    def shares(self, seconds: int) -> list[float]:
        """What trainings of that length made of it, as shares of Kneser-Ney's figure."""
        return [nats / self.kneser_ney for nats in self.trained.get(seconds, ())]


TEXTS = (
    Measured(
        "tiny Shakespeare",
        "English",
        1_003_854,
        1.5165,
        {20: (1.4403, 1.4484, 1.4305), 60: (1.4109, 1.4074, 1.4034), 600: (1.4042, 1.4008, 1.4021)},
    ),
    Measured(
        "the manual inside Python", "English", 418_543, 1.1090, {20: (1.0684,), 60: (1.0109,), 600: (0.9682,)}
    ),
    Measured("a Russian Quran", "Russian", 703_725, 1.1895, {20: (1.1720,), 60: (1.1438,), 600: (1.0890,)}),
)


@dataclass(frozen=True)
class Expected:
    """Bits per character to expect after so many seconds of training, from so many trainings."""

    seconds: int
    low: float
    high: float
    trainings: int


def expected(counts_bits: float) -> list[Expected]:
    """From what Kneser-Ney makes of a text, what trainings should make of it, were it like one of those measured."""
    found = []
    for seconds in sorted({length for text in TEXTS for length in text.trained}):
        shares = [share for text in TEXTS for share in text.shares(seconds)]
        found.append(Expected(seconds, counts_bits * min(shares), counts_bits * max(shares), len(shares)))
    return found


def unlike(
    train_chars: int, counts_bits: float, *, english: float, russian: float, spaces: float
) -> list[str]:
    """In what a text differs from all that were measured; `english` and `russian`: shares of such letters among its own.

    `spaces`: their share of its characters, by which words of natural language are known.
    """
    said = []
    sizes = [text.train_chars for text in TEXTS]
    if not min(sizes) / LIKE <= train_chars <= max(sizes) * LIKE:
        size = "shorter" if train_chars < min(sizes) else "longer"
        said.append(f"it is {size}: {train_chars:,} characters to train on")
    if max(english, russian) < MOSTLY:
        said.append(
            f"{_share(english)} of its letters are those of English, {_share(russian)} those of Russian"
        )
    elif not 0.1 <= spaces <= 0.25:
        said.append(f"{100 * spaces:.0f} % of it are spaces, unlike prose")
    usual = [text.kneser_ney / log(2) for text in TEXTS]
    if not min(usual) / AS_HARD <= counts_bits <= max(usual) * AS_HARD:
        said.append(
            f"counts alone make {counts_bits:.2f} bits/char of it, and {min(usual):.2f} to {max(usual):.2f} of those"
        )
    return said


def _share(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "none"

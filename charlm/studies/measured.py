"""What trainings ended at that were measured, and what they let one expect of another text.

The rows are those of benchmarks/NOTES.md, "what a training gains on its counts". A row says: after so
long the model's bits were such a share of what Kneser-Ney makes of the same text.
"""

from dataclasses import dataclass
from math import log

TEXT = "tiny Shakespeare"
LANGUAGE = "English"
TRAIN_CHARS = 1_003_854
KNESER_NEY_NATS = 1.5165
"""What the training part's n-grams alone make of the held-out tenth, nats per character."""
MACHINE = "two cores of an AMD EPYC without bf16, shared, at 72 to 138 GFLOP/s"
LIKE = 4
"""A text up to so many times shorter or longer, or as hard, is taken for one of the same size or kind."""
MOSTLY = 0.9


@dataclass(frozen=True)
class Row:
    """Trainings of one length, with several seeds: nats per character over the whole held-out tenth."""

    seconds: int
    nats: tuple[float, ...]

    @property
    def shares(self) -> tuple[float, float]:
        """The best and the worst seed, as shares of Kneser-Ney's figure."""
        return min(self.nats) / KNESER_NEY_NATS, max(self.nats) / KNESER_NEY_NATS


ROWS = (
    Row(20, (1.4403, 1.4484, 1.4305)),
    Row(60, (1.4109, 1.4074, 1.4034)),
    Row(600, (1.4042, 1.4008, 1.4021)),
)


@dataclass(frozen=True)
class Expected:
    """Bits per character to expect after so many seconds of training."""

    seconds: int
    low: float
    high: float
    seeds: int


def expected(counts_bits: float) -> list[Expected]:
    """From what Kneser-Ney makes of a text, what trainings should make of it; where it is like the measured one."""
    return [
        Expected(row.seconds, counts_bits * row.shares[0], counts_bits * row.shares[1], len(row.nats))
        for row in ROWS
    ]


def unlike(train_chars: int, counts_bits: float, latin: float, spaces: float) -> list[str]:
    """In what a text differs from the measured one; `latin`: share of ASCII among its letters.

    `spaces`: their share of its characters, by which words of natural language are known.
    """
    said = []
    if not TRAIN_CHARS / LIKE <= train_chars <= TRAIN_CHARS * LIKE:
        size = "shorter" if train_chars < TRAIN_CHARS else "longer"
        said.append(f"it is {size}: {train_chars:,} characters to train on")
    if latin < MOSTLY:
        share = f"only {100 * latin:.0f} %" if latin >= 0.005 else "none"
        said.append(f"{share} of its letters are those of {LANGUAGE}")
    elif not 0.1 <= spaces <= 0.25:
        said.append(f"{100 * spaces:.0f} % of it are spaces, unlike {LANGUAGE}")
    usual = KNESER_NEY_NATS / log(2)
    if not usual / 1.5 <= counts_bits <= usual * 1.5:
        said.append(
            f"counts alone make {counts_bits:.2f} bits/char of it, and {usual:.2f} of the measured one"
        )
    return said

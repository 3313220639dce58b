"""The scaling law: the expected final loss of a transformer, from its number of weights, its block size and its data.

The constants come from `python -m benchmarks.scaling fit benchmarks/scaling.jsonl`. They are those of a play. Other texts
have another floor E and another scale above it, neither of which changes which size ends lowest.
"""

from dataclasses import dataclass
from math import exp


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """The expected loss, as a multiple of the loss of Kneser-Ney n-grams on the same text.

    E + A / weights^a + B (weights^s / characters)^b + C / block^c, in the form of Hoffmann et al. 2022 (arXiv
    2203.15556), with s, since large models start more slowly. Each further epoch teaches less: after the first one,
    characters count as in Muennighoff et al. 2023 (arXiv 2305.16264), U (1 + R (1 - exp(-(passes - 1) / R))) with U
    characters in the text, where R falls as the number of weights grows.
    """

    E: float
    A: float
    a: float
    B: float
    b: float
    s: float
    C: float
    c: float
    R: float  # for a model with as many weights as the text has characters
    r: float  # R falls with (weights / characters)^r

    def loss(self, *, weights: float, block_size: int, chars: float, n_train: int) -> float:
        """Return the expected loss of a model with `weights` that reads `chars` characters of a text of `n_train`."""
        passes = chars / n_train
        R = self.R * (n_train / weights) ** self.r
        read = chars if passes <= 1 else n_train * (1 + R * (1 - exp(-(passes - 1) / R)))
        size, block = float(weights**-self.a), float(block_size**-self.c)
        return (
            self.E
            + self.A * size
            + self.B * float((weights**self.s / max(1.0, read)) ** self.b)
            + self.C * block
        )


NO_PRIOR_LAW = ScalingLaw(
    E=0.6723, A=3.774, a=0.2767, B=14.37, b=0.3849, s=0.2098, C=0.3281, c=1.319, R=2.445, r=0.01893
)
PRIOR_LAW = ScalingLaw(
    E=0.8781, A=1.174, a=0.2859, B=1.528, b=0.5021, s=0.4468, C=0.3865, c=1.591, R=13.7, r=0.2203
)

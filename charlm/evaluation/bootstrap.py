"""95 % confidence intervals and standard errors of a mean over a text, and over seeds."""

from functools import lru_cache
from math import exp, lgamma, log, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from charlm.config import FEWEST_HELD_OUT

BLOCK = 1_000
FEWEST_BLOCKS = 20
FEWEST_SEEDS = 3
TERMS = 0.5
"""Cosines for n blocks: TERMS * n ** (2/3). benchmarks/coverage.py compares it with other methods."""

Numbers = NDArray[np.float64]


def confidence_interval(values: Numbers) -> tuple[float, float] | None:
    """A 95 % interval for the mean of the values of a text (N,), or of several seeds on it (S, N).

    The values are averaged over blocks of at least BLOCK, which together hold all of them. The error of
    the mean over blocks allows for correlated neighbours (`long_run_variance`), and Student's t for how few
    blocks there are. Where they are skewed, Hall's transformation (1992, J. R. Stat. Soc. B 54:221) widens
    the side of the long tail; the other side stays as it is, since real texts drift, too.
    From FEWEST_SEEDS seeds on, the error of the mean over seeds is added. None for fewer than
    FEWEST_BLOCKS whole blocks: with those no method that was tried covers what it should.
    """
    each = np.atleast_2d(values)
    n_seeds, n = each.shape
    blocks = n // BLOCK
    if blocks < FEWEST_BLOCKS:
        return None
    starts = np.arange(blocks) * n // blocks
    means = np.add.reduceat(each.mean(axis=0), starts) / np.diff(starts, append=n)
    mean, (variance, dof) = float(each.mean()), long_run_variance(means)
    of_text = variance / blocks
    total = of_text
    if n_seeds >= FEWEST_SEEDS:
        of_seeds = float(each.mean(axis=1).var(ddof=1)) / n_seeds
        total += of_seeds
        # Welch and Satterthwaite: the degrees of freedom of a sum of two estimated variances
        if total > 0:
            dof = total**2 / (of_text**2 / dof + of_seeds**2 / (n_seeds - 1))
    if total <= 0:
        return mean, mean
    skewness = _skewness(means) / sqrt(blocks) * (of_text / total) ** 1.5
    t = t_quantile(dof)
    above, below = max(t, -_untransformed(-t, skewness)), max(t, _untransformed(t, skewness))
    return mean - below * sqrt(total), mean + above * sqrt(total)


def standard_error(values: Numbers) -> float | None:
    """Of the mean of blocks in the order of the text, (N,); None where there is only one: it is unknown."""
    if len(values) < 2:
        return None
    return sqrt(long_run_variance(values)[0] / len(values))


def plus_minus(nats: float, error: float | None, digits: int = 4, sign: str = "") -> str:
    """A figure in bits and its standard error, as they are printed; `sign`: "+" for a difference."""
    bits = None if error is None else error / log(2)
    return f"{nats / log(2):{sign}z.{digits}f} ± {error_said(bits, digits)}"


def error_said(error: float | None, digits: int = 4) -> str:
    """A standard error as it is printed: a question mark where it is unknown, and never rounded to zero."""
    if error is None:
        return "?"
    rounded = f"{error:.{digits}f}"
    return rounded if float(rounded) else f"<{10**-digits:.{digits}f}"


def too_few(chars: int) -> str:
    """What is to be printed after a figure on so many characters, where they are too few; else nothing."""
    return f", {chars:,} character{'s' * (chars != 1)}: too few to mean much" * (chars < FEWEST_HELD_OUT)


def long_run_variance(values: Numbers) -> tuple[float, float]:
    """N times the variance of the mean of N >= 2 values in the order of the text, and its degrees of freedom.

    From FEWEST_BLOCKS values on neighbours may be correlated: it is the mean square of the first
    coefficients of the values' cosine series, each as good as independent of the others (Lazarus, Lewis,
    Stock and Watson 2018, J. Bus. Econ. Stat. 36:541). For fewer, it is the variance of independent values.
    """
    n = len(values)
    if n < FEWEST_BLOCKS:
        return float(np.var(values, ddof=1)), n - 1
    terms = round(TERMS * n ** (2 / 3))
    waves = np.arange(1, terms + 1)
    centred = values - values.mean()
    turned = np.fft.rfft(centred, 2 * n)[1 : terms + 1] * np.exp(-0.5j * pi * waves / n)
    return float((turned.real**2).mean()) * 2 / n, terms


@lru_cache(maxsize=256)
def t_quantile(dof: float) -> float:
    """The 0.975 quantile of Student's t: what a two-sided 95 % interval multiplies a standard error with."""
    angles = np.linspace(
        0, pi / 2, 20_001
    )  # t = sqrt(dof) tan(angle) turns the density into a power of cosine
    heights = np.cos(angles) ** (dof - 1)
    share = np.concatenate(([0.0], np.cumsum((heights[1:] + heights[:-1]) / 2))) * (angles[1] - angles[0])
    share *= exp(lgamma((dof + 1) / 2) - lgamma(dof / 2)) / sqrt(pi)
    return float(np.tan(np.interp(0.475, share, angles)) * sqrt(dof))


def _skewness(values: Numbers) -> float:
    off = values - values.mean()
    variance = float((off**2).mean())
    return float((off**3).mean()) / variance**1.5 if variance > 0 else 0.0


def _untransformed(z: float, skewness: float) -> float:
    """The studentised mean that Hall's monotone transformation takes to z."""
    if abs(skewness) < 1e-9:
        return z
    return 3 / skewness * (float(np.cbrt(1 + skewness * (z - skewness / 6))) - 1)

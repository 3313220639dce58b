"""95 % confidence intervals and standard errors of a mean over a text, and over seeds. Shapes: N values, S seeds."""

from functools import lru_cache
from math import exp, lgamma, log, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from charlm.config import FEWEST_HELD_OUT

BLOCK = 1_000
FEWEST_BLOCKS = 20
FEWEST_SEEDS = 3
TERMS = 0.5
"""The number of cosines for n blocks is TERMS * n ** (2/3); benchmarks/coverage.py compares it with other methods."""

Numbers = NDArray[np.float64]


def confidence_interval(values: Numbers) -> tuple[float, float] | None:
    """Return a 95 % interval for the mean of the values of a text (N,), or of several seeds on it (S, N).

    The values are averaged over blocks of at least BLOCK. The standard error of the blocks' mean allows for correlated
    neighbours (`long_run_variance`), and Student's t for the small number of blocks. If blocks are skewed, Hall's
    transformation (1992, J. R. Stat. Soc. B 54:221) widens the side of the long tail; the other side is not narrowed,
    since real texts also drift. From FEWEST_SEEDS seeds on, the variance over seeds is added. Returns None for fewer
    than FEWEST_BLOCKS whole blocks, for which no method that we tried has the right coverage.
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
    above, below = max(t, -_hall_inverse(-t, skewness)), max(t, _hall_inverse(t, skewness))
    return mean - below * sqrt(total), mean + above * sqrt(total)


def standard_error(values: Numbers) -> float | None:
    """Return the standard error of the mean of blocks (N,), in text order; None for a single block."""
    if len(values) < 2:
        return None
    return sqrt(long_run_variance(values)[0] / len(values))


def plus_minus(nats: float, error: float | None, digits: int = 4, sign: str = "") -> str:
    """Format a value and its standard error, converted from nats to bits; `sign`: "+" for a difference."""
    bits = None if error is None else error / log(2)
    return f"{nats / log(2):{sign}z.{digits}f} ± {format_error(bits, digits)}"


def format_error(error: float | None, digits: int = 4) -> str:
    """Format a standard error: "?" if it is unknown, and never rounded to zero."""
    if error is None:
        return "?"
    rounded = f"{error:.{digits}f}"
    return rounded if float(rounded) else f"<{10**-digits:.{digits}f}"


def too_few(chars: int) -> str:
    """Return a remark to print after a score that was measured on too few characters; otherwise empty."""
    return f", {chars:,} character{'s' * (chars != 1)}: too few for a reliable score" * (
        chars < FEWEST_HELD_OUT
    )


def long_run_variance(values: Numbers) -> tuple[float, float]:
    """Return N times the variance of the mean of N >= 2 values in text order, and its degrees of freedom.

    From FEWEST_BLOCKS values on it allows for correlated neighbours: it is the mean square of the first coefficients of
    the values' cosine series, which are nearly independent (Lazarus, Lewis, Stock and Watson 2018, J. Bus. Econ. Stat.
    36:541). For fewer values it is their variance, as if they were independent.
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
    """Return the 0.975 quantile of Student's t, for a two-sided 95 % interval."""
    # With t = sqrt(dof) tan(angle), the density becomes a power of the cosine.
    angles = np.linspace(0, pi / 2, 20_001)
    heights = np.cos(angles) ** (dof - 1)
    share = np.concatenate(([0.0], np.cumsum((heights[1:] + heights[:-1]) / 2))) * (angles[1] - angles[0])
    share *= exp(lgamma((dof + 1) / 2) - lgamma(dof / 2)) / sqrt(pi)
    return float(np.tan(np.interp(0.475, share, angles)) * sqrt(dof))


def _skewness(values: Numbers) -> float:
    off = values - values.mean()
    variance = float((off**2).mean())
    return float((off**3).mean()) / variance**1.5 if variance > 0 else 0.0


def _hall_inverse(z: float, skewness: float) -> float:
    """Return the studentised mean that Hall's monotone transformation maps to z."""
    if abs(skewness) < 1e-9:
        return z
    return 3 / skewness * (float(np.cbrt(1 + skewness * (z - skewness / 6))) - 1)

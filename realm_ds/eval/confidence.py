"""How far a mean over questions can be trusted: bootstrap intervals, and two runs compared on the same questions.

What is measured of a question is scores.py's business.

Shapes: N questions, D distinct values among them, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and the percentile interval around it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The mean difference of two runs, first minus second, its interval, and how often chance alone differs as much."""

    difference: Interval
    p_value: float


def interval(values: Sequence[float] | np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean of N questions, and the range that holds 95% of the means of N questions drawn from them anew."""
    mean, means_R = _means(np.asarray(values, dtype=np.float64), seed=seed, resamples=resamples)
    edge = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means_R, [edge, 100 - edge])
    return Interval(mean=mean, low=float(low), high=float(high))


def compare(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, *, seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:  # fmt: skip
    """Two runs on the same N questions, in the same order: a paired bootstrap, and a paired permutation test.

    The test exchanges the two answers of each question at random; p counts the differences at least as large, the one
    observed among them, so it is never 0.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    difference = interval(differences, seed=seed, resamples=resamples)
    sizes_D, counts_D = np.unique(np.abs(differences), return_counts=True)
    # Of c questions with the same size of difference a binomial number keeps its sign.
    kept_RD = np.random.default_rng(seed).binomial(counts_D, 0.5, size=(resamples, len(counts_D)))
    exchanged_R = np.abs((2 * kept_RD - counts_D) @ sizes_D) / len(differences)
    as_large = np.count_nonzero(exchanged_R >= abs(difference.mean) - 1e-12)
    return Comparison(difference=difference, p_value=(1 + as_large) / (1 + resamples))


def _means(values: np.ndarray, *, seed: int, resamples: int) -> tuple[float, np.ndarray]:
    """The mean, and those of R samples drawn with replacement.

    Drawn as how often each distinct value comes up, which is the same and takes R x D numbers in the place of R x N: D
    is 2 where questions are right or wrong.
    """
    distinct_D, counts_D = np.unique(values, return_counts=True)
    drawn_RD = np.random.default_rng(seed).multinomial(len(values), counts_D / len(values), size=resamples)
    return float(values.mean()), drawn_RD @ distinct_D / len(values)

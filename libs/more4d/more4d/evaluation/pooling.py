"""Numbers over many scenes: sums pooled over all pixels, and bootstrap intervals that resample whole scenes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sums = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap interval."""

    value: float
    low: float
    high: float


def pooled_ratio(numerators: Sums, denominators: Sums) -> float:
    """sum(numerators) / sum(denominators) over scenes: a scene counts by its pixels. NaN where nothing was summed."""
    total = float(denominators.sum())
    return float(numerators.sum()) / total if total > 0 else float("nan")


def ratio_interval(numerators: Sums, denominators: Sums, *, seed: int = 0) -> Interval:
    """The pooled ratio and its interval over scenes [S]; numerator and denominator of a scene are drawn together."""
    return bootstrap(np.stack([numerators, denominators], axis=-1), _ratio_of_columns, seed=seed)


def bootstrap(values: NDArray[np.float64], statistic: Callable[[Sums], float], *, seed: int = 0) -> Interval:
    """A statistic of `values` [S, ...] over scenes with its percentile interval at 95 %, from 2000 resamples of scenes.

    Raises ValueError without scenes.
    """
    if not len(values):
        raise ValueError("no scene to evaluate: there is nothing to resample")
    rng = np.random.default_rng(seed)
    draws = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(RESAMPLES)]
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail]) if np.isfinite(draws).any() else (np.nan, np.nan)
    return Interval(statistic(values), float(low), float(high))


def _ratio_of_columns(values: Sums) -> float:
    return pooled_ratio(values[:, 0], values[:, 1])

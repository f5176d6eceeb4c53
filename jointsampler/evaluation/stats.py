"""Intervals: percentile bootstrap over independent units, and differences of given intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict


class Interval(BaseModel):
    """A value with its 95 % interval and the number of independent units behind it.

    ``low`` and ``high`` are None where the units are too few to claim an interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    value: float
    """The estimate."""
    low: float | None = None
    """Lower 95 % bound."""
    high: float | None = None
    """Upper 95 % bound."""
    n: int
    """Independent units; 0 for a value that is exact by construction."""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def overlaps(self, other: Interval) -> bool:
        """Whether both intervals are known and share a value."""
        if None in (self.low, self.high, other.low, other.high):
            return False
        return self.low <= other.high and other.low <= self.high

    def scaled(self, factor: float) -> Interval:
        """The interval of the value times a positive ``factor``."""
        low, high = (None if x is None else factor * x for x in (self.low, self.high))
        return Interval(value=factor * self.value, low=low, high=high, n=self.n)


EXACT = Interval(value=0.0, low=0.0, high=0.0, n=0)  # a distance that is 0 by construction


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    units: np.ndarray,
    replicates: int = 2000,
    seed: int = 0,
) -> Interval:
    """95 % percentile interval of a statistic of the mean unit.

    units: [n, columns] float; statistic maps column means [..., columns] to [...].
    Paired quantities stand in the same row, so the interval of their ratio is paired too.
    A statistic may divide by zero in a resample: there are no bounds then.
    """
    units = np.asarray(units, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = statistic(resampled_means(units, replicates, seed))
        value = float(statistic(units.mean(axis=0)))
    return percentile_interval(value, drawn, len(units))


def resampled_means(units: np.ndarray, replicates: int = 2000, seed: int = 0) -> np.ndarray:
    """[replicates, columns]: the mean of n units drawn with replacement from units [n, columns].

    Units of the same n are drawn alike, whatever their columns.
    """
    n = len(units)
    picks = np.random.default_rng(seed).integers(n, size=(replicates, n))
    picks += n * np.arange(replicates)[:, None]
    counts = np.bincount(picks.ravel(), minlength=replicates * n).reshape(replicates, n)
    return counts.astype(np.float64) @ units / n


def percentile_interval(value: float, drawn: np.ndarray, n: int) -> Interval:
    """The 95 % percentile interval of replicates ``drawn`` [R] around ``value``, over ``n`` units.

    Without bounds where one unit, or a replicate that is not finite, gives none.
    """
    if n < 2 or not np.isfinite(drawn).all():
        return Interval(value=value, n=n)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value=value, low=float(low), high=float(high), n=n)


def difference_of(a: Interval, b: Interval) -> Interval:
    """a - b of independent estimates, from their intervals alone (MOVER; Zou and Donner 2008).

    With a in [l1, u1] and b in [l2, u2]: a - b - sqrt((a - l1)^2 + (u2 - b)^2) and
    a - b + sqrt((u1 - a)^2 + (b - l2)^2). Without bounds where one has none.
    """
    value, n = a.value - b.value, min(a.n, b.n)
    if None in (a.low, a.high, b.low, b.high):
        return Interval(value=value, n=n)
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Interval(value=value, low=low, high=high, n=n)

"""Intervals: percentile bootstrap over independent units (trajectories, samples)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of independent units behind it."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    units: np.ndarray,
    replicates: int = 2000,
    seed: int = 0,
) -> Estimate:
    """95 % percentile interval of a statistic of the mean unit.

    units: [n, columns] float; statistic maps column means [..., columns] to [...].
    Paired quantities stand in the same row, so the interval of their ratio is paired too.
    """
    units = np.asarray(units, dtype=np.float64)
    n = len(units)
    rng = np.random.default_rng(seed)
    picks = rng.integers(n, size=(replicates, n))
    resampled = units[picks].mean(axis=1)  # [replicates, columns]
    low, high = np.percentile(statistic(resampled), [2.5, 97.5])
    return Estimate(float(statistic(units.mean(axis=0))), float(low), float(high), n)

"""Differences between rows on the same prompts and seeds: paired bootstrap over units.

A row keeps its metrics unit by unit (``measured.Units``), so any two rows of one
file can be compared. A difference whose interval holds 0 is printed as none, with
the number of units that did not suffice. Rows of two files are left to ``pairing.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import get_args

import numpy as np

from .measured import Difference, Metric, Units
from .results import MethodResult
from .stats import Interval, bootstrap


def as_units(columns: np.ndarray) -> Units:
    """Of [n, 2] numerators and denominators; six digits say more than any interval."""
    over, under = ([float(f"{x:.6g}") for x in column] for column in np.asarray(columns).T)
    return Units(over=over, under=under)


def columns_of(units: Units) -> np.ndarray:
    """[n, 2]: the inverse of :func:`as_units`."""
    return np.stack([units.over, units.under], axis=1)


def ratio(mean: np.ndarray) -> np.ndarray:
    """sum(over) / sum(under) of column means [..., 2]; 0 where the denominator is 0."""
    return mean[..., 0] / np.maximum(mean[..., 1], 1e-12)


def difference(a: MethodResult, b: MethodResult, metric: Metric) -> Difference | None:
    """``metric`` of row ``a`` minus that of ``b``; None where one has no units or their n differs."""
    if metric not in a.units or metric not in b.units:
        return None
    units = a.units[metric], b.units[metric]
    if len(units[0].over) != len(units[1].over):
        return None
    found = paired(units, lambda ratios: ratios[..., 0] - ratios[..., 1])
    return Difference(metric=metric, row=a.title, against=b.title, value=found)


def paired(units: Sequence[Units], statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """The interval of a statistic of m ratios over the same n units, resampled together.

    ``statistic`` maps the ratios [..., m], one for each entry of ``units``, to [...].
    """
    columns = np.concatenate([columns_of(each) for each in units], axis=1)  # [n, 2 m]

    def of_means(means: np.ndarray) -> np.ndarray:
        return statistic(ratio(means.reshape(*means.shape[:-1], len(units), 2)))

    return bootstrap(of_means, columns)


def differences(
    rows: Sequence[MethodResult], against: Collection[str] = ("sequential",)
) -> list[Difference]:
    """Every row against the rows of the methods ``against``, and every two rows of one setting."""
    bases = [i for i, row in enumerate(rows) if row.method in against]
    pairs = [(i, base) for base in bases for i in range(len(rows)) if i != base]
    alike = itertools.combinations(range(len(rows)), 2)
    pairs += [(j, i) for i, j in alike if rows[i].setting == rows[j].setting]
    once: dict[frozenset[int], tuple[int, int]] = {}  # two rows differ in one direction alone
    for pair in pairs:
        once.setdefault(frozenset(pair), pair)
    found = [
        difference(rows[i], rows[j], metric)
        for metric in get_args(Metric)
        for i, j in once.values()
    ]
    return [one for one in found if one is not None]

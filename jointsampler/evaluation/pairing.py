"""Figures of two files, compared in pairs where both hold the same items.

A figure is a function of ratios over units (``measured.Units``). A file names the items
behind its units by a digest of the prompts, seeds and trajectories (``Results.items``).
Where the digests of two files agree, both figures are resampled together; otherwise
the difference follows from the two intervals alone, and the reason is said. Pairs of
rows of one file are in ``differences.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from ..corpus.trajectories import Trajectories
from .differences import paired
from .measured import Units
from .parallelism import COLUMNS, aup, known_rows
from .results import MethodResult, Results
from .stats import Interval, difference_of

OTHER_ITEMS = "the prompts, seeds or conditions of the sampling differ"
NO_ITEMS = "a file does not say which prompts and seeds it has"
NO_UNITS = "a file holds the interval alone, not its units"

Ratios = Callable[[np.ndarray], np.ndarray]  # ratios [..., m] -> [...]


def _alone(ratios: np.ndarray) -> np.ndarray:
    return ratios[..., 0]


def _captured(ratios: np.ndarray) -> np.ndarray:
    """Of a method's nats and of marginal's at the same k."""
    return 1 - ratios[..., 0] / ratios[..., 1]


def items_of(*parts: Any) -> str:
    """A short digest of JSON-able parts: what says which items units are."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def items_of_trajectories(rows: Trajectories, order: str, temperature: float) -> str:
    """Of the KL along ``rows``; ``order`` is the policy of the methods' own order."""
    tokens, path = rows.tokens.tolist(), rows.order.tolist()
    ids = rows.row_ids.tolist()
    return items_of(rows.teacher, rows.seed, ids, rows.prompts, tokens, path, order, temperature)


def judge_name(judge: str) -> str:
    """A judge's name wherever its folder is."""
    return PurePath(judge).name


@dataclass(frozen=True)
class Figure:
    """A figure with its interval, and what it is made of where the file holds that."""

    value: Interval
    units: tuple[Units, ...] = ()
    items: str | None = None  # digest; None where the file does not say
    of: Ratios = field(default=_alone)

    def minus(self, other: Figure) -> Change:
        """This figure minus the ``other`` one, of another file."""
        why = self._unpaired(other)
        if why:
            return Change(difference_of(self.value, other.value), why)
        m = len(self.units)
        found = paired(
            [*self.units, *other.units],
            lambda ratios: self.of(ratios[..., :m]) - other.of(ratios[..., m:]),
        )
        return Change(found)

    def _unpaired(self, other: Figure) -> str:
        """Why the two cannot be paired; empty where they can."""
        if not self.units or not other.units:
            return NO_UNITS
        if self.items is None or other.items is None:
            return NO_ITEMS
        same = self.items == other.items and len(self.units[0].over) == len(other.units[0].over)
        return "" if same else OTHER_ITEMS


@dataclass(frozen=True)
class Change:
    """A difference of two files' figures."""

    value: Interval
    unpaired: str = ""  # why it is not paired; empty where it is

    def negated(self) -> Change:
        x = self.value
        low, high = (None if bound is None else -bound for bound in (x.high, x.low))
        return Change(Interval(value=-x.value, low=low, high=high, n=x.n), self.unpaired)


def figures(results: Results, row: MethodResult) -> dict[str, Figure]:
    """Every interval of ``row``, a row of ``results``, under the names of ``MethodResult.figures``."""
    marginal = next((r for r in results.methods if (r.method, r.k) == ("marginal", row.k)), None)
    found = {}
    for name, value in row.figures().items():
        metric = name.replace("captured", "nats_per_token")
        captured = name != metric
        rows = [row, marginal] if captured else [row]
        units = tuple(r.units[metric] for r in rows if r is not None and metric in r.units)
        if value.n and len(units) == len(rows):  # not exact by construction
            items = results.items.get(metric)
            found[name] = Figure(value, units, items, _captured if captured else _alone)
        else:
            found[name] = Figure(value)
    return found


def gap(a: Figure, b: Figure) -> Figure:
    """|a - b| of two figures of one file with one unit column each."""
    d = difference_of(a.value, b.value)
    value = Interval(value=abs(d.value), n=d.n)
    if d.low is not None and d.high is not None:
        low, high = sorted((abs(d.low), abs(d.high)))
        low = 0.0 if d.low <= 0 <= d.high else low
        value = Interval(value=abs(d.value), low=low, high=high, n=d.n)
    units = (*a.units, *b.units) if a.units and b.units else ()
    return Figure(value, units, a.items, lambda ratios: abs(ratios[..., 0] - ratios[..., 1]))


def aups(results: Results) -> dict[str, Figure]:
    """AUP by tokens per pass of every curve, by its label."""
    rows = known_rows(results.methods)
    units = tuple(row.units[metric] for row in rows for metric in COLUMNS[:2])
    found = {}
    for curve in results.curves:
        chosen = [0, *(i for i, row in enumerate(rows) if row.label == curve.label)]

        def of(ratios: np.ndarray, chosen: list[int] = chosen) -> np.ndarray:
            percent, speeds = 100 * ratios[..., 0::2], ratios[..., 1::2]
            best = np.maximum(percent.max(axis=-1), 1e-7)
            return aup(speeds[..., chosen], percent[..., chosen], best)

        found[curve.label] = Figure(curve.aup, units, results.items.get("accuracy"), of)
    return found

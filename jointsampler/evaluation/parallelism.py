"""Accuracy against parallelism: AUP, accuracy at matched cost, cost at matched accuracy.

A method's rows and the sequential one make its curve. Every interval resamples the
prompts, the same for all points of all methods, so points of one curve stay paired.
Accuracies and speeds are those of the task prompts, all tasks pooled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from .differences import columns_of, ratio
from .measured import At, Curve, CurvePoint, Metric
from .results import MethodResult
from .stats import Interval, percentile_interval, resampled_means

SPEEDS = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # tokens per cost at which accuracy is read off
SHARES = (0.99, 0.95, 0.9)  # of sequential's accuracy, at which cost is read off
PENALTY, LOSS = 3.0, 5.0  # AUP's alpha, and the points of accuracy after which a curve ends
_COLUMNS: tuple[Metric, ...] = ("accuracy", "task_tokens_per_pass", "task_tokens_per_cost")


def aup(points: Sequence[tuple[float, float]], best: float) -> float:
    """Accuracy under parallelism of (tokens per forward, accuracy in percent) pairs.

    By d3LLM (arXiv 2601.07568): with the points by rising parallelism rho, those with
    y >= y_1 - 5, and W(y) = min(exp(-3 (1 - y / y_max)), 1),

        AUP = rho_1 y_1 + sum over i of (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})) / 2.

    ``best`` is y_max, the highest accuracy of any method on the task. A curve without
    loss has the area rho_m y, and is worth its speed times its accuracy.
    """
    ordered = sorted(points)
    kept = [(rho, y) for rho, y in ordered if y >= ordered[0][1] - LOSS]
    weighted = [(rho, y * min(np.exp(-PENALTY * (1 - y / best)), 1.0)) for rho, y in kept]
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(weighted))
    return float(kept[0][0] * kept[0][1] + area)


def accuracy_at(points: Sequence[tuple[float, float]], speed: float) -> float:
    """Accuracy at ``speed`` tokens per cost of (tokens per cost, accuracy) pairs; the ends go on flat."""
    costs, values = zip(*sorted((1 / rho, y) for rho, y in points), strict=True)
    return float(np.interp(1 / speed, costs, values))


def speed_at(points: Sequence[tuple[float, float]], accuracy: float) -> float:
    """Most tokens per cost with at least ``accuracy``; the slowest point's where none has it."""
    line = sorted((1 / rho, y) for rho, y in points)  # by rising cost per token
    best = line[-1][0]
    for (cost, y), (slower, better) in itertools.pairwise(line):
        if y >= accuracy:
            best = min(best, cost)
        elif better >= accuracy:  # the line between the two crosses it
            best = min(best, cost + (slower - cost) * (accuracy - y) / (better - y))
    return 1 / best


def curves(rows: Sequence[MethodResult]) -> list[Curve]:
    """One curve per method with task accuracies; none without sequential's."""
    known = [row for row in rows if all(name in row.units for name in _COLUMNS)]
    base = next((i for i, row in enumerate(known) if row.method == "sequential"), None)
    if base is None:
        return []
    known = [row for row in known if len(_units(row)) == len(_units(known[base]))]
    table = _Table(known)
    labels = dict.fromkeys(row.label for row in known if row.method != "sequential")
    return [
        table.curve(label, [base, *(i for i, row in enumerate(known) if row.label == label)])
        for label in labels
    ]


def _units(row: MethodResult) -> np.ndarray:
    """[n, 6]: numerators and denominators of the three columns, prompt by prompt."""
    return np.concatenate([columns_of(row.units[name]) for name in _COLUMNS], axis=1)


Points = list[tuple[float, float]]  # (speed, accuracy); the first is sequential's


class _Table:
    """Speeds and accuracies of all rows, as measured and in resamples that all rows share."""

    def __init__(self, rows: Sequence[MethodResult]):
        units = np.concatenate([_units(row) for row in rows], axis=1)  # [n, 6 rows]
        means = np.concatenate([units.mean(axis=0)[None], resampled_means(units)])
        self.rows, self.n = rows, len(units)
        self.values = ratio(means.reshape(len(means), len(rows), 3, 2))  # [1 + R, rows, 3]

    def curve(self, label: str, chosen: Sequence[int]) -> Curve:
        points = [self._point(i) for i in chosen]
        slowest, fastest = points[0].tokens_per_cost, max(p.tokens_per_cost for p in points)
        speeds = [speed for speed in SPEEDS if slowest <= speed <= fastest]
        costs = [
            self._over(chosen, 2, lambda p, _, share=share: speed_at(p, share * p[0][1]))
            for share in SHARES
        ]
        accuracies = [
            self._over(chosen, 2, lambda p, _, speed=speed: accuracy_at(p, speed))
            for speed in speeds
        ]
        return Curve(
            label=label,
            points=sorted(points, key=lambda point: point.tokens_per_cost),
            aup=self._over(chosen, 1, _percent),
            aup_cost=self._over(chosen, 2, _percent),
            accuracy_at=[At(level=x, value=y) for x, y in zip(speeds, accuracies, strict=True)],
            cost_at=[At(level=x, value=y) for x, y in zip(SHARES, costs, strict=True)],
        )

    def _point(self, i: int) -> CurvePoint:
        row = self.rows[i]
        return CurvePoint(
            title=row.title,
            accuracy=row.accuracy,
            tokens_per_pass=row.task_tokens_per_pass,
            tokens_per_cost=row.task_tokens_per_cost,
        )

    def _over(
        self, chosen: Sequence[int], column: int, read: Callable[[Points, float], float]
    ) -> Interval:
        """The interval of ``read``(points of ``chosen``, the best accuracy of all rows).

        column: 1 takes tokens per pass for the speed, 2 tokens per cost.
        """
        pairs = self.values[:, chosen][..., [column, 0]]  # [1 + R, points, 2]
        best = self.values[..., 0].max(axis=1)
        found = [
            read([tuple(pair) for pair in points], top)
            for points, top in zip(pairs.tolist(), best.tolist(), strict=True)
        ]
        return percentile_interval(found[0], np.array(found[1:]), self.n)


def _percent(points: Points, best: float) -> float:
    return aup([(speed, 100 * y) for speed, y in points], max(100 * best, 1e-9))

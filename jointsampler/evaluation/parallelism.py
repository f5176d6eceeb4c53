"""Accuracy against parallelism: AUP, accuracy at matched cost, cost at matched accuracy.

A method's rows and the sequential one make its curve. Every interval resamples the
prompts, the same for all points of all methods, so points of one curve stay paired.
Accuracies and speeds are those of the task prompts, all tasks pooled. Speeds at which
curves are read off are relative to sequential's, because answers are shorter than
responses: sequential makes less than one token of an answer per pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .differences import as_units, columns_of, ratio
from .measured import At, Curve, CurvePoint, Metric
from .results import MethodResult
from .stats import Interval, bootstrap, percentile_interval, resampled_means

SPEEDS = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # of sequential's, at which accuracy is read off
SHARES = (0.99, 0.95, 0.9)  # of sequential's accuracy, at which speed is read off
PENALTY, LOSS = 3.0, 5.0  # AUP's alpha, and the points of accuracy after which a curve ends
COLUMNS: tuple[Metric, ...] = ("accuracy", "task_tokens_per_pass", "task_tokens_per_cost")


def task_figures(
    right: np.ndarray, tokens: np.ndarray, passes: np.ndarray, cost: np.ndarray
) -> dict[str, Any]:
    """The fields of a row of results that n answers to task prompts give, ``units`` among them.

    All [n] float64, by prompt: 1 for a correct answer, tokens before the end, teacher
    passes, and their cost with that of the updates, in passes.
    """
    pairs = (right, np.ones_like(right)), (tokens, passes), (tokens, cost)
    return {
        "accuracy": bootstrap(lambda mean: mean[..., 0], right[:, None]),
        "task_tokens_per_pass": float(tokens.sum() / passes.sum()),
        "task_tokens_per_cost": float(tokens.sum() / cost.sum()),
        "units": {
            name: as_units(np.stack(pair, axis=1))
            for name, pair in zip(COLUMNS, pairs, strict=True)
        },
    }


# The functions below read curves of P points, speeds [..., P] and accuracies [..., P], in any order.


def aup(speeds: np.ndarray, percent: np.ndarray, best: np.ndarray | float) -> np.ndarray:
    """[...]: accuracy under parallelism of tokens per forward and accuracy in percent.

    By d3LLM (arXiv 2601.07568): with the points by rising parallelism rho, those with
    y >= y_1 - 5, and W(y) = min(exp(-3 (1 - y / y_max)), 1),

        AUP = rho_1 y_1 + sum over i of (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})) / 2.

    ``best`` [...] is y_max, the highest accuracy of any method on the task. A curve
    without loss has the area rho_m y: its speed times its accuracy.
    """
    rho, y = _sorted(speeds, percent)
    weighted = y * np.minimum(np.exp(-PENALTY * (1 - y / np.asarray(best)[..., None])), 1.0)
    area = rho[..., 0] * y[..., 0]
    last_rho, last = rho[..., 0], weighted[..., 0]
    for i in range(1, rho.shape[-1]):
        kept = y[..., i] >= y[..., 0] - LOSS
        area = area + kept * (rho[..., i] - last_rho) * (last + weighted[..., i]) / 2
        last_rho = np.where(kept, rho[..., i], last_rho)
        last = np.where(kept, weighted[..., i], last)
    return area


def accuracy_at(
    speeds: np.ndarray, accuracies: np.ndarray, speed: np.ndarray | float
) -> np.ndarray:
    """[...]: accuracy at ``speed`` [...]; before the first point and after the last it is theirs."""
    cost, y = _sorted(1 / speeds, accuracies)
    wanted = 1 / np.asarray(speed)
    found = np.where(wanted <= cost[..., 0], y[..., 0], y[..., -1])
    for i in range(1, cost.shape[-1]):
        width = cost[..., i] - cost[..., i - 1]
        share = (wanted - cost[..., i - 1]) / np.where(width > 0, width, 1.0)
        inside = (share > 0) & (share <= 1) & (width > 0)
        found = np.where(inside, y[..., i - 1] + share * (y[..., i] - y[..., i - 1]), found)
    return found


def speed_at(
    speeds: np.ndarray, accuracies: np.ndarray, accuracy: np.ndarray | float
) -> np.ndarray:
    """[...]: the highest speed with at least ``accuracy`` [...]; the slowest point's where none has it."""
    cost, y = _sorted(1 / speeds, accuracies)
    best = cost[..., -1]
    for i in reversed(
        range(1, cost.shape[-1])
    ):  # from the slowest on, so the last found is fastest
        quick, slow = y[..., i - 1], y[..., i]
        rise = np.where(slow > quick, slow - quick, 1.0)
        crossing = cost[..., i - 1] + (cost[..., i] - cost[..., i - 1]) * (accuracy - quick) / rise
        best = np.where((quick < accuracy) & (slow >= accuracy), crossing, best)
        best = np.where(quick >= accuracy, cost[..., i - 1], best)
    return 1 / best


def _sorted(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both [..., P] by rising x."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    order = np.argsort(x, axis=-1, kind="stable")
    return np.take_along_axis(x, order, -1), np.take_along_axis(y, order, -1)


def curves(rows: Sequence[MethodResult]) -> list[Curve]:
    """One curve per method with task accuracies; none without sequential's."""
    known = known_rows(rows)
    if not known:
        return []
    table = _Table(known)
    labels = dict.fromkeys(row.label for row in known[1:])
    return [
        table.curve(label, [0, *(i for i, row in enumerate(known) if row.label == label)])
        for label in labels
    ]


def known_rows(rows: Sequence[MethodResult]) -> list[MethodResult]:
    """The rows with task accuracies on sequential's prompts, sequential first; none without it."""
    known = [row for row in rows if all(name in row.units for name in COLUMNS)]
    base = next((row for row in known if row.method == "sequential"), None)
    if base is None:
        return []
    others = [row for row in known if row.method != "sequential"]
    return [base, *(row for row in others if len(_units(row)) == len(_units(base)))]


def _units(row: MethodResult) -> np.ndarray:
    """[n, 6]: numerators and denominators of the three columns, prompt by prompt."""
    return np.concatenate([columns_of(row.units[name]) for name in COLUMNS], axis=1)


class _Table:
    """Speeds and accuracies of all rows, as measured and in resamples that all rows share."""

    def __init__(self, rows: Sequence[MethodResult]):
        units = np.concatenate([_units(row) for row in rows], axis=1)  # [n, 6 rows]
        means = np.concatenate([units.mean(axis=0)[None], resampled_means(units)])
        self.rows, self.n = rows, len(units)
        # Accuracy, tokens per pass, tokens per cost: [1 + R, rows] each; the first are as measured.
        self.accuracy, self.per_pass, self.per_cost = np.moveaxis(
            ratio(means.reshape(len(means), len(rows), 3, 2)), -1, 0
        )

    def curve(self, label: str, chosen: Sequence[int]) -> Curve:
        """Of the rows ``chosen``, the first of which is sequential."""
        points = [self._point(i) for i in chosen]
        y, per_pass, per_cost = (
            x[:, chosen] for x in (self.accuracy, self.per_pass, self.per_cost)
        )
        speeds = per_cost / per_cost[:, :1]  # sequential's is 1 in every resample
        best = 100 * np.maximum(self.accuracy.max(axis=1), 1e-9)
        return Curve(
            label=label,
            points=sorted(points, key=lambda point: point.tokens_per_cost),
            aup=self._interval(aup(per_pass, 100 * y, best)),
            aup_cost=self._interval(aup(per_cost, 100 * y, best)),
            accuracy_at=[
                At(level=speed, value=self._interval(accuracy_at(speeds, y, speed)))
                for speed in SPEEDS
                if speed <= speeds[0].max()
            ],
            cost_at=[
                At(level=share, value=self._interval(speed_at(speeds, y, share * y[:, 0])))
                for share in SHARES
            ],
        )

    def _point(self, i: int) -> CurvePoint:
        row = self.rows[i]
        return CurvePoint(
            title=row.title,
            accuracy=row.accuracy,
            tokens_per_pass=row.task_tokens_per_pass,
            tokens_per_cost=row.task_tokens_per_cost,
        )

    def _interval(self, values: np.ndarray) -> Interval:
        return percentile_interval(float(values[0]), values[1:], self.n)

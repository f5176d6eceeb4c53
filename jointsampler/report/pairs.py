"""Pairs of one run's rows on the same prompts and seeds: a table per setting, a column per metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..evaluation import measured
from ..evaluation.results import Results
from .differences import Difference, in_words

METRICS: dict[measured.Metric, tuple[str, Literal["less", "more"] | None, int]] = {
    "nats_per_token": ("KL, nats per token", "less", 4),
    "nats_per_token_own": ("KL, own order", "less", 4),
    "nats_per_token_own_on_tasks": ("KL on tasks, own order", "less", 4),
    "nats_per_token_sampled_on_tasks": ("KL on tasks, own samples", "less", 4),
    "nll": ("NLL", None, 3),
    "accuracy": ("accuracy", "more", 3),
    "task_tokens_per_pass": ("tokens per full pass, tasks", "more", 2),
    "task_tokens_per_cost": ("tokens per cost, tasks", "more", 2),
}


@dataclass(frozen=True)
class Pairs:
    """Rows are (row, the row that is subtracted, one difference or None per column)."""

    title: str
    columns: list[str]
    rows: list[tuple[str, str, list[Difference | None]]]


def pair_tables(results: Results) -> list[Pairs]:
    """The differences to each row of another setting, and those of the methods of each setting."""
    knobs = {row.title: row.knob for row in results.methods}
    groups: dict[str, list[measured.Difference]] = {}
    for one in results.differences:
        knob = knobs[one.row]
        title = knob if knob == knobs[one.against] else f"Against {one.against}"
        groups.setdefault(title, []).append(one)
    ordered = sorted(groups, key=lambda title: not title.startswith("Against "))
    return [_table(title, groups[title]) for title in ordered]


def _table(title: str, found: Sequence[measured.Difference]) -> Pairs:
    metrics = [m for m in get_args(measured.Metric) if any(one.metric == m for one in found)]
    cells = {(one.row, one.against, one.metric): one.value for one in found}
    columns = []
    for metric in metrics:
        name, better, _ = METRICS[metric]
        units = sorted({one.value.n for one in found if one.metric == metric})
        notes = [f"n = {', '.join(map(str, units))}", *([f"{better} is better"] if better else [])]
        columns.append(f"{name} ({'; '.join(notes)})")
    rows = []
    for row, against in dict.fromkeys((one.row, one.against) for one in found):
        values = [cells.get((row, against, metric)) for metric in metrics]
        rows.append((row, against, [
            None if value is None else in_words(value, *METRICS[metric][1:])
            for metric, value in zip(metrics, values, strict=True)
        ]))  # fmt: skip
    return Pairs(title, columns, rows)

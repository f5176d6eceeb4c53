"""The tables of the report: which figure of a result stands in which column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..evaluation.differences import difference
from ..evaluation.results import KLPath, MethodResult, Results, frontier, points
from ..evaluation.stats import Interval, difference_of
from .charts import interval_text, number_text

Value = Interval | float | None


@dataclass(frozen=True)
class Metric:
    """A figure of a method's result; ``better`` is None where neither direction is.

    ``source``: the name of an interval in ``MethodResult.figures``, or of a field.
    """

    name: str
    source: str
    better: Literal["less", "more"] | None = None
    digits: int = 3

    def get(self, row: MethodResult) -> Value:
        return row.figures().get(self.source) or getattr(row, self.source, None)

    def text(self, row: MethodResult) -> str:
        value = self.get(row)
        if value is None:
            return "–"
        if isinstance(value, Interval):
            return interval_text(value, self.digits)
        return number_text(value, self.digits)


METRICS = (
    Metric("KL, nats per token", "nats_per_token", "less", 4),
    Metric("captured", "captured", "more"),
    Metric("KL, own order", "nats_per_token_own", "less", 4),
    Metric("captured, own order", "captured_own", "more"),
    Metric("KL, own samples", "nats_per_token_sampled", "less", 4),
    Metric("KL on tasks, own order", "nats_per_token_own_on_tasks", "less", 4),
    Metric("KL on tasks, own samples", "nats_per_token_sampled_on_tasks", "less", 4),
    # Below the value of sequential samples it is not better, because repetition is fluent too.
    Metric("NLL", "nll"),
    Metric("MAUVE", "mauve", "more"),
    Metric("distinct 2-grams", "distinct_2"),
    Metric("self-BLEU", "self_bleu"),
    Metric("accuracy", "accuracy", "more"),
    Metric("tokens per full pass", "tokens_per_pass", "more", 2),
    Metric("tokens per teacher row", "tokens_per_row", "more", 2),
    Metric("tokens per cost", "tokens_per_cost", "more", 2),
    Metric("tokens/s", "tokens_per_second", "more", 0),
    Metric("teacher rows", "teacher_rows", None, 1),
    Metric("update passes", "update_passes", None, 1),
)


@dataclass(frozen=True)
class Table:
    """Rows are (label, setting, method, cells); ``settings``: whether the setting has a column."""

    title: str
    columns: list[str]
    rows: list[tuple[str, str, str, list[str]]]
    settings: bool = True


def tables(results: Results) -> list[Table]:
    """One table per k, and one of the methods whose stop rule decides.

    Sequential opens each as the reference. A column without any figure is left out.
    """
    sequential = [r for r in results.methods if r.method == "sequential"]
    others = [r for r in results.methods if r.method != "sequential"]
    ks = sorted({r.k for r in others if r.k})
    made = [_table(f"k = {k}", [*sequential, *(r for r in others if r.k == k)], False) for k in ks]
    ruled = [r for r in others if r.k is None]
    if ruled or not made:
        made.append(_table("Stop rules" if ruled else "Sequential", [*sequential, *ruled], True))
    return made


def _table(title: str, rows: Sequence[MethodResult], settings: bool) -> Table:
    shown = [m for m in METRICS if any(m.get(row) is not None for row in rows)]
    cells = [(row.label, row.knob, row.method, [m.text(row) for m in shown]) for row in rows]
    return Table(title, [m.name for m in shown], cells, settings)


def frontier_table(methods: Sequence[MethodResult], tasks: bool, path: KLPath) -> Table:
    """The points of the frontier's chart, the fastest last."""
    best = frontier(points(methods, tasks, path))
    rows = []
    for row in methods:
        for place in points([row], tasks, path):
            nats = (row.kl_on_tasks if tasks else row.kl)[path].nats_per_token
            on = "yes" if place in best else "no"
            rows.append((place, row, [f"{place[0]:.2f}", interval_text(nats, 4), on]))
    rows.sort(key=lambda entry: entry[0])
    return Table(
        "Frontier",
        ["tokens per full pass, updates at their cost", "KL, nats per token", "on the frontier"],
        [(row.label, row.knob, row.method, cells) for _, row, cells in rows],
    )


def leads(results: Results) -> list[dict[str, object]]:
    """What the report says first: every method that captures, beside marginal at the same k.

    ``noise`` holds the figures in which the two do not differ beyond the noise.
    """
    marginal = {r.k: r for r in results.methods if r.method == "marginal"}
    return [
        {
            "row": row,
            "marginal": marginal[row.k],
            "saturated": results.saturated(row),
            "noise": _noise(row, marginal[row.k]),
        }
        for row in results.methods
        if row.captured is not None and row.k in marginal
    ]


def _noise(a: MethodResult, b: MethodResult) -> set[str]:
    """The figures of both rows whose difference has an interval that holds 0."""
    mine, theirs = a.figures(), b.figures()
    found = set()
    for name in mine.keys() & theirs.keys():
        pair = difference(a, b, name)
        value = difference_of(mine[name], theirs[name]) if pair is None else pair.value
        if value.low is not None and value.high is not None and value.low <= 0 <= value.high:
            found.add(name)
    return found

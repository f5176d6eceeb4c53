"""Where the KL arises: each breakdown of ``evaluation/breakdown.py`` as a chart and a table.

Recorded path on text, because only there a bin compares equal reveals of two methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluation.measured import Axis, Bin
from ..evaluation.results import MethodResult, Results
from . import svg
from .charts import Figure, bounds, interval_text, series_of
from .tables import Table

AXES: dict[Axis, str] = {
    "mask_ratio": "masked share of the response",
    "step": "place in the round",
    "distance": "distance to the nearest token of the round",
}


@dataclass(frozen=True)
class Group:
    """The rows of one k, or those with a stop rule: a table per axis, a chart where it has two bins."""

    title: str
    figures: list[Figure]
    tables: list[Table]


def groups(results: Results) -> list[Group]:
    """One per k with a breakdown, by rising k, and one of the stop rules."""
    rows = [row for row in results.methods if any(_bins(row, axis) for axis in AXES)]
    ks = sorted({row.k for row in rows if row.k})
    sets = [(f"k = {k}", [row for row in rows if row.k == k]) for k in ks]
    sets.append(("Stop rules", [row for row in rows if row.k is None]))
    series = series_of(results.methods)
    found = []
    for title, chosen in sets:
        axes = [axis for axis in AXES if any(_bins(row, axis) for row in chosen)]
        if axes:
            drawn = [axis for axis in axes if len(_places(axis, chosen)) > 1]
            figures = [_figure(axis, title, chosen, series) for axis in drawn]
            found.append(Group(title, figures, [_table(axis, chosen) for axis in axes]))
    return found


def place_name(axis: Axis, found: Bin) -> str:
    """A bin's place on its axis, for example "3–4" or "17+"."""
    if found.high is None:
        return f"{found.low:g}+"
    single = axis != "mask_ratio" and found.low == found.high
    return f"{found.low:g}" if single else f"{found.low:g}–{found.high:g}"


def _bins(row: MethodResult, axis: Axis) -> list[Bin]:
    return row.kl["recorded"].breakdown.get(axis, []) if "recorded" in row.kl else []


def _places(axis: Axis, rows: Sequence[MethodResult]) -> list[str]:
    """The names of all bins that a row has, from the lowest place on."""
    lows = {place_name(axis, one): one.low for row in rows for one in _bins(row, axis)}
    return sorted(lows, key=lows.get)


def _figure(axis: Axis, group: str, rows: Sequence[MethodResult], series: dict[str, int]) -> Figure:
    names = _places(axis, rows)
    title = f"{group}: KL by {AXES[axis]}, nats per reveal"
    values = [b.nats.value for row in rows for b in _bins(row, axis)]
    values += [b.nats.high for row in rows for b in _bins(row, axis) if b.nats.high is not None]
    chart = svg.Chart(
        title, svg.Axis.of_names(AXES[axis], names), svg.Axis.over(title, values, "symlog")
    )
    legend, seen = [], {}
    for place, row in enumerate(rows):
        # Settings of one label share its colour.
        variant = seen[row.label] = seen.get(row.label, -1) + 1
        number = series[row.label]
        legend.append((row.label if row.k else row.title, number, variant))
        aside = 0.24 * (place / max(len(rows) - 1, 1) - 0.5)  # intervals do not hide each other
        spots = [(names.index(place_name(axis, b)) + aside, b.nats.value) for b in _bins(row, axis)]
        chart.line(spots, svg.look(number, variant))
        for spot, one in zip(spots, _bins(row, axis), strict=True):
            words = f"{interval_text(one.nats, 4)} nats, {one.reveals:,} reveals"
            if one.captured is not None:
                words += f", captured {one.captured.value:.3f}"
            name = f"{row.title}, {place_name(axis, one)}"
            chart.point(*spot, number, name, words, bounds(one.nats), variant)
    return Figure(title, chart.svg(), legend)


def _table(axis: Axis, rows: Sequence[MethodResult]) -> Table:
    """Nats of every row, and below them what it captures where that is known."""
    names, made = _places(axis, rows), []
    for row in rows:
        bins = {place_name(axis, one): one for one in _bins(row, axis)}
        nats = {name: interval_text(one.nats, 4) for name, one in bins.items()}
        known = {n: interval_text(one.captured) for n, one in bins.items() if one.captured}
        for label, cells in ((row.title, nats), (f"{row.title}: captured", known)):
            if cells:
                made.append((label, "", row.method, [cells.get(name, "–") for name in names]))
    return Table(AXES[axis], names, made, settings=False)

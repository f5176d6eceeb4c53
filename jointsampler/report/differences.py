"""Runs compared: every figure of the settings that both have, and what the noise allows to say.

The interval of a difference takes the two runs as independent. Runs that share
seeds are usually positively correlated, so it is then too wide rather than too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluation.results import MethodResult
from ..evaluation.stats import Interval, difference_of
from .charts import interval_text, number_text
from .record import Run
from .tables import METRICS, Metric


@dataclass(frozen=True)
class Difference:
    """Of one run to the first one: in words, and as a class for the style sheet."""

    text: str
    verdict: str
    look: str  # noise, better, worse, other, equal or unknown


@dataclass(frozen=True)
class Comparison:
    """One setting: rows are (metric, value of each run, difference of each later run)."""

    title: str
    method: str
    rows: list[tuple[str, list[str], list[Difference]]]


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """Every setting that the first run and another one have, in the first run's order."""
    by_title = [{row.title: row for row in run.results.methods} for run in runs]
    found = []
    for title, first in by_title[0].items():
        rows = [settings.get(title) for settings in by_title]
        if any(row is not None for row in rows[1:]):
            made = [_compared(metric, rows) for metric in METRICS]
            found.append(Comparison(title, first.method, [row for row in made if row is not None]))
    return found


def only_in_one(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(run, setting) of what no other run has, so that nothing is left out unsaid."""
    titles = [{row.title for row in run.results.methods} for run in runs]
    return [
        (run.name, row.title)
        for run in runs
        for row in run.results.methods
        if sum(row.title in own for own in titles) == 1
    ]


def _compared(
    metric: Metric, rows: Sequence[MethodResult | None]
) -> tuple[str, list[str], list[Difference]] | None:
    values = [None if row is None else metric.get(row) for row in rows]
    if values[0] is None or all(value is None for value in values[1:]):
        return None
    texts = ["–" if row is None else metric.text(row) for row in rows]
    return metric.name, texts, [_judged(metric, values[0], value) for value in values[1:]]


def _judged(metric: Metric, a: Interval | float, b: Interval | float | None) -> Difference:
    if b is None:
        return Difference("–", "not measured", "unknown")
    if not isinstance(a, Interval) or not isinstance(b, Interval):
        return Difference(number_text(b - a, metric.digits, "+"), "no interval", "unknown")
    found = difference_of(b, a)
    if found.low is None or found.high is None:
        return Difference(number_text(found.value, metric.digits, "+"), "no interval", "unknown")
    if a == b and not a.n:  # exact by construction
        return Difference("0", "equal", "equal")
    text = interval_text(found, metric.digits, "+")
    if found.low <= 0 <= found.high:
        return Difference(text, "inside the noise", "noise")
    direction = "more" if found.value > 0 else "less"
    if metric.better is None:
        return Difference(text, direction, "other")
    good = direction == metric.better
    return Difference(text, "better" if good else "worse", "better" if good else "worse")


def settings_that_differ(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(dotted key, its value in each run) of the configurations."""
    flats = [_flat(run.results.config) for run in runs]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    rows = [(key, [flat.get(key, "–") for flat in flats]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(tree: dict, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = str(value)
    return found

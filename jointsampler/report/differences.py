"""Runs compared: every figure of the settings that both have, and what the noise allows to say.

A difference is paired where both runs hold the same items (``evaluation/pairing.py``).
Elsewhere its interval takes the two runs as independent, and the reason is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..evaluation.pairing import Figure, aups, figures
from ..evaluation.results import MethodResult
from ..evaluation.stats import Interval
from .charts import interval_text, number_text
from .record import Run
from .tables import METRICS, Metric


@dataclass(frozen=True)
class Difference:
    """Of one run to the first one: in words, and as a class for the style sheet."""

    text: str
    verdict: str
    look: str  # noise, better, worse, other, equal or unknown
    pairs: str = ""  # whether it is paired, in words; empty where there is no interval
    unpaired: str = ""  # why it is not


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
            known = [
                {} if row is None else figures(run.results, row)
                for run, row in zip(runs, rows, strict=True)
            ]
            made = [_compared(metric, rows, known) for metric in METRICS]
            found.append(Comparison(title, first.method, [row for row in made if row is not None]))
    return found


def compared_aups(runs: Sequence[Run]) -> Comparison | None:
    """AUP by tokens per pass of the methods that the first run and another one have."""
    known = [aups(run.results) for run in runs]
    rows = []
    for label in known[0]:
        sides = [found.get(label) for found in known]
        if any(side is not None for side in sides[1:]):
            metric = Metric(label, "aup", "more", 1)
            texts = ["–" if side is None else interval_text(side.value, 1) for side in sides]
            rows.append((label, texts, [_judged(metric, sides[0], side) for side in sides[1:]]))
    return Comparison("AUP, tokens per full pass", "", rows) if rows else None


def reasons(found: Iterable[Comparison]) -> list[tuple[str, list[str]]]:
    """(why figures are not paired, their names)."""
    names: dict[str, dict[str, None]] = {}
    for comparison in found:
        for name, _, row in comparison.rows:
            for difference in row:
                if difference.unpaired:
                    names.setdefault(difference.unpaired, {})[name] = None
    return [(why, list(which)) for why, which in names.items()]


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
    metric: Metric, rows: Sequence[MethodResult | None], known: Sequence[dict[str, Figure]]
) -> tuple[str, list[str], list[Difference]] | None:
    """``known``: the figures of each run's row."""
    sides = [
        None if row is None else found.get(metric.source, metric.get(row))
        for row, found in zip(rows, known, strict=True)
    ]
    if sides[0] is None or all(side is None for side in sides[1:]):
        return None
    texts = ["–" if row is None else metric.text(row) for row in rows]
    return metric.name, texts, [_judged(metric, sides[0], side) for side in sides[1:]]


def _judged(metric: Metric, a: Figure | float, b: Figure | float | None) -> Difference:
    """``b`` minus ``a``, that of the first run."""
    if b is None:
        return Difference("–", "not measured", "unknown")
    if not isinstance(a, Figure) or not isinstance(b, Figure):
        return Difference(number_text(b - a, metric.digits, "+"), "no interval", "unknown")
    if a.value == b.value and not a.value.n:  # exact by construction
        return Difference("0", "equal", "equal")
    change = b.minus(a)
    found = in_words(change.value, metric.better, metric.digits)
    if found.look == "unknown":
        return found
    pairs = "unpaired" if change.unpaired else f"paired, n = {change.value.n}"
    return replace(found, pairs=pairs, unpaired=change.unpaired)


def in_words(value: Interval, better: Literal["less", "more"] | None, digits: int) -> Difference:
    """A difference with its verdict; ``better`` is None where neither direction is."""
    text = interval_text(value, digits, "+")
    if value.low is None or value.high is None:
        return Difference(text, "no interval", "unknown")
    if value.low == value.high == 0:
        return Difference("0", "equal", "equal")
    if value.low <= 0 <= value.high:
        return Difference(text, "inside the noise", "noise")
    direction = "more" if value.low > 0 else "less"
    if better is None:
        return Difference(text, direction, "other")
    verdict = "better" if direction == better else "worse"
    return Difference(text, verdict, verdict)


def counts(found: Iterable[Difference]) -> dict[str, int]:
    """How many differences are judged, and how many of these lie outside the noise."""
    looks = [one.look for one in found if one.look not in ("unknown", "equal")]
    return {"judged": len(looks), "outside": sum(look != "noise" for look in looks)}


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

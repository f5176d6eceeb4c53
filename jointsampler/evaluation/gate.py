"""The gate for CI: one results.json against a baseline, metric by metric.

A change counts only if it lies outside the noise: that of pairs where both files hold
the units of a figure, else that of the two intervals. What must be equal for the
comparison to mean anything (teacher, prompts, seeds, lengths, judge) is checked
first; what may be under test (weights of the sampler, columns, training, code) is
not. Speeds depend on the machine and are judged on request alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UserError, unknown_name
from .pairing import Change, Figure, aups, figures, gap, judge_name
from .results import MethodResult, Results
from .stats import Interval

Outcome = Literal["regressed", "missing", "not judged", "within noise", "better"]

# Figures that should rise, and those whose aim is the sequential samples' value. All others fall.
RISING = ("captured", "mauve", "accuracy", "aup")
NEAR_SEQUENTIAL = ("nll", "distinct", "self_bleu")
SPEEDS = ("tokens_per_pass", "tokens_per_cost", "tokens_per_second")
# Settings that say how the work was done, or what is under test, not what was measured.
_FREE = {
    *("estimate", "train", "sweep", "sampler", "columns"),
    # The fingerprint identifies a teacher, wherever it lies.
    *("teacher.name", "teacher.family", "teacher.revision", "teacher.tokenizer", "teacher.device"),
    *("corpus.actors", "corpus.rows_per_file", "evaluate.actors", "evaluate.samples_per_item"),
    *("evaluate.shown", "evaluate.methods", "evaluate.ks"),
}


@dataclass(frozen=True)
class Tolerance:
    """What is let pass beyond the noise."""

    slack: Mapping[str, float] = field(default_factory=dict)  # metric -> in the metric's own unit
    speed: float | None = None  # share by which a speed may fall; None: speeds are not judged


@dataclass(frozen=True)
class Verdict:
    row: str  # title of the row
    metric: str
    outcome: Outcome
    before: Interval  # the baseline's
    now: Interval | None
    change: Change | None = None  # now minus before; None for speeds, and where a figure is missing

    @property
    def fails(self) -> bool:
        return self.outcome in ("regressed", "missing")

    def __str__(self) -> str:
        now = "-" if self.now is None else _shown(self.now)
        said = f"{self.outcome:12s}  {self.row}: {self.metric} {_shown(self.before)} -> {now}"
        if self.change is None or self.change.unpaired:
            return said
        return f"{said}; in pairs {_shown(self.change.value, '+')}, n = {self.change.value.n}"


def check_results(
    now: Results, baseline: Results, tolerance: Tolerance | None = None
) -> list[Verdict]:
    """One verdict per figure of the baseline.

    Raises UserError: files of different teachers or conditions, a slack for a
    metric that the baseline lacks.
    """
    tolerance = tolerance or Tolerance()
    _check_alike(now, baseline)
    before, after = _figures(baseline), _figures(now)
    names = {metric for _, metric in before}
    for name in tolerance.slack:
        if name not in names:
            raise unknown_name("metric", name, names)
    found = []
    for (row, metric), figure in before.items():
        other = after.get((row, metric))
        if other is None:
            found.append(Verdict(row, metric, "missing", figure.value, None))
            continue
        change = other.minus(figure)
        outcome = _outcome(metric, change, tolerance.slack.get(metric))
        found.append(Verdict(row, metric, outcome, figure.value, other.value, change))
    return found + _speeds(now, baseline, tolerance.speed)


def _outcome(metric: str, change: Change, slack: float | None) -> Outcome:
    worse = (change.negated() if metric.startswith(RISING) else change).value
    if worse.low is None or worse.high is None:  # too few units to know the noise
        if slack is None:
            return "not judged"
        return "regressed" if worse.value > slack else "within noise"
    if worse.low > (slack or 0.0):
        return "regressed"
    return "better" if worse.high < 0 else "within noise"


def _figures(results: Results) -> dict[tuple[str, str], Figure]:
    """(title, metric) -> figure, the farther from its aim the larger for those of NEAR_SEQUENTIAL."""
    sequential = next((r for r in results.methods if r.method == "sequential"), None)
    aims = {} if sequential is None else figures(results, sequential)
    found = {}
    for row in results.methods:
        for metric, figure in figures(results, row).items():
            near = metric.startswith(NEAR_SEQUENTIAL)
            if near and (row.method == "sequential" or metric not in aims):
                continue
            name = f"{metric}_from_sequential" if near else metric
            found[row.title, name] = gap(figure, aims[metric]) if near else figure
    return found | {(label, "aup"): figure for label, figure in aups(results).items()}


def _speeds(now: Results, baseline: Results, allowed: float | None) -> list[Verdict]:
    if allowed is None:
        return []
    rows = {row.title: row for row in now.methods}
    found = []
    for row in baseline.methods:
        for name in SPEEDS:
            before, after = _speed(row, name), _speed(rows.get(row.title), name)
            outcome: Outcome = "within noise"
            if after is None:
                outcome = "missing"
            elif after.value < (1 - allowed) * before.value:
                outcome = "regressed"
            elif after.value > (1 + allowed) * before.value:
                outcome = "better"
            found.append(Verdict(row.title, name, outcome, before, after))
    return found


def _speed(row: MethodResult | None, name: str) -> Interval | None:
    return None if row is None else Interval(value=getattr(row, name), n=row.samples)


def _check_alike(now: Results, baseline: Results) -> None:
    """UserError unless both were measured under the same conditions."""
    if now.teacher.fingerprint != baseline.teacher.fingerprint:
        raise UserError(
            f"The two files are of different teachers ({now.teacher.name!r}, {now.teacher.fingerprint}; in "
            f"the baseline {baseline.teacher.name!r}, {baseline.teacher.fingerprint}): compare files of one "
            "teacher."
        )
    mine, theirs = _conditions(now), _conditions(baseline)
    for name in [*theirs, *(key for key in mine if key not in theirs)]:
        a, b = (shown.get(name, "not set") for shown in (mine, theirs))
        if a != b:
            raise UserError(
                f"The two files were measured under different conditions ({name} is {a}, in the baseline "
                f"{b}): compare files of one configuration."
            )


def _conditions(results: Results) -> dict[str, Any]:
    """What must be equal, by dotted names."""
    fixed = {
        "judge": judge_name(results.judge),
        "kl_temperature": results.kl_temperature,
    }
    flat = dict(_flat(results.config))
    return fixed | {key: value for key, value in flat.items() if not _is_free(key)}


def _is_free(key: str) -> bool:
    section = key.partition(".")[0]
    return section in _FREE or key in _FREE or (section == "run" and key != "run.seed")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def _shown(interval: Interval, sign: str = "") -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.value:{sign}.4g}"
    return f"{interval.value:{sign}.4g} [{interval.low:{sign}.4g}, {interval.high:{sign}.4g}]"

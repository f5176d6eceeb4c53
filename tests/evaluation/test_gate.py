"""The gate: what the intervals carry regresses, what they do not is noise, what differs is refused."""

from __future__ import annotations

import numpy as np
import pytest

from jointsampler import UserError
from jointsampler.cli import main
from jointsampler.evaluation.gate import Tolerance, check_results
from jointsampler.evaluation.results import Results, write_results
from jointsampler.evaluation.stats import Interval, difference_of
from tests.report.test_report import made


def changed(metric: str, method: str, by: float, judge: bool = True) -> Results:
    """The example results with one figure of one method moved by ``by``."""
    results = made(judge)
    row = next(r for r in results.methods if r.method == method)
    if metric in ("nats_per_token", "captured"):
        old = getattr(row.kl["recorded"], metric)
        setattr(row.kl["recorded"], metric, moved(old, by))
    else:
        setattr(row, metric, moved(getattr(row, metric), by))
    return results


def moved(x: Interval, by: float) -> Interval:
    return Interval(value=x.value + by, low=x.low + by, high=x.high + by, n=x.n)


def outcomes(now: Results, tolerance: Tolerance | None = None) -> dict[tuple[str, str], str]:
    found = check_results(now, made(True), tolerance)
    return {(v.row, v.metric): v.outcome for v in found}


def test_a_file_equals_itself():
    assert set(outcomes(made(True)).values()) == {"within noise"}


@pytest.mark.parametrize(
    ("metric", "worse"),
    [("nats_per_token", 0.2), ("captured", -0.2), ("mauve", -0.2)],
)
def test_each_metric_has_its_direction_and_moves_alone(metric, worse):
    """Intervals are .05 to each side, so a difference is known beyond .0707."""
    at = ("refresh, k = 4", metric)
    for by, said in ((worse, "regressed"), (-worse, "better"), (worse / 4, "within noise")):
        found = outcomes(changed(metric, "refresh", by))
        assert found.pop(at) == said
        assert set(found.values()) == {"within noise"}


def test_nll_is_judged_by_its_distance_to_sequential_whatever_the_side():
    """A fall below the sequential samples' value is a loss too: repetition is fluent."""
    at = ("joint, k = 4", "nll_from_sequential")
    for by in (0.4, -0.4):
        assert outcomes(changed("nll", "joint", by))[at] == "regressed"
    assert outcomes(changed("nll", "joint", 0.05))[at] == "within noise"
    assert ("sequential", "nll_from_sequential") not in outcomes(made(True))


def test_slack_lets_a_loss_of_that_size_pass_and_names_what_it_does_not_know():
    at, worse = ("refresh, k = 4", "captured"), changed("captured", "refresh", -0.2)
    assert outcomes(worse, Tolerance({"captured": 0.1}))[at] == "regressed"  # .2 - .0707 > .1
    assert outcomes(worse, Tolerance({"captured": 0.15}))[at] == "within noise"
    with pytest.raises(UserError, match="did you mean 'captured'"):
        outcomes(worse, Tolerance({"capturd": 0.1}))


def test_without_an_interval_only_a_slack_judges():
    at, worse = ("joint, k = 4", "mauve"), made(True)
    next(r for r in worse.methods if r.method == "joint").mauve = Interval(value=0.1, n=1)
    assert outcomes(worse)[at] == "not judged"
    assert outcomes(worse, Tolerance({"mauve": 0.05}))[at] == "regressed"
    assert outcomes(worse, Tolerance({"mauve": 0.9}))[at] == "within noise"


def test_a_row_or_a_metric_that_is_gone_fails_the_gate():
    now = made(True)
    now.methods = [row for row in now.methods if row.method != "joint"]
    gone = [v for v in check_results(now, made(True)) if v.outcome == "missing"]
    assert gone and all(v.fails and v.row == "joint, k = 4" for v in gone)
    more = check_results(made(True), now)  # a row without a baseline is no one's loss
    assert {v.outcome for v in more} == {"within noise"}


def test_speeds_are_judged_on_request_alone():
    slow = made(True)
    for row in slow.methods:
        row.tokens_per_second *= 0.8
    assert not any("per_second" in metric for _, metric in outcomes(slow))
    found = outcomes(slow, Tolerance(speed=0.1))
    assert found["refresh, k = 4", "tokens_per_second"] == "regressed"
    assert found["refresh, k = 4", "tokens_per_cost"] == "within noise"
    assert outcomes(slow, Tolerance(speed=0.25))["joint, k = 4", "tokens_per_second"] == (
        "within noise"
    )


def test_files_of_other_conditions_are_refused_in_one_sentence():
    base = made(True)
    base.config = {"corpus": {"max_new_tokens": 32}, "train": {"steps": 3}, "run": {"seed": 0}}
    now = base.model_copy(deep=True)
    now.config["train"]["steps"] = 9  # what is under test may differ
    check_results(now, base)
    now.config["corpus"]["max_new_tokens"] = 96
    with pytest.raises(UserError, match=r"corpus.max_new_tokens is 96, in the baseline 32"):
        check_results(now, base)
    other = made(True)
    other.teacher.fingerprint = "cd"
    with pytest.raises(UserError, match="cd; in the baseline 'tiny', ab"):
        check_results(other, made(True))
    with pytest.raises(UserError, match="judge is none, in the baseline smollm2"):
        check_results(made(False), made(True))


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says():
    """MOVER on normal means: nominal 95 %."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(500):
        a, b = (rng.normal(mean, 1, 40) for mean in (0.3, 0.0))
        spread = [1.96 / 40**0.5] * 2
        found = difference_of(*(
            Interval(value=x.mean(), low=x.mean() - s, high=x.mean() + s, n=40)
            for x, s in zip((a, b), spread, strict=True)
        ))  # fmt: skip
        hits += found.low <= 0.3 <= found.high
    assert 0.92 <= hits / 500 <= 0.98


def test_the_command_prints_a_line_per_metric_and_says_it_by_its_status(tmp_path, capsys):
    base, bad, other = (tmp_path / name for name in ("base.json", "bad.json", "other.json"))
    write_results(made(True), base)
    write_results(changed("captured", "refresh", -0.2), bad)
    foreign = made(True)
    foreign.teacher.fingerprint = "cd"
    write_results(foreign, other)
    assert main(["check-results", str(base), "--against", str(base)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "within noise  refresh, k = 4: captured 0.97 [0.92, 1.02] -> 0.97 [0.92, 1.02]" in lines
    assert lines[-2] == f"{len(lines) - 2} within noise"
    assert lines[-1].startswith(
        "not paired, because a file holds the interval alone, not its units"
    )
    assert main(["check-results", str(bad), "--against", str(base)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("regressed") for line in lines) == 1
    assert main(["check-results", str(bad), "--against", str(base), "--slack", "captured=0.2"]) == 0
    capsys.readouterr()
    for words, said in (
        ([str(other), "--against", str(base)], "different teachers"),
        ([str(bad), "--against", str(base), "--slack", "captured"], "is not METRIC=NUMBER"),
        ([str(bad), "--against", str(base), "--speed", "7"], "--speed is a share"),
        ([str(tmp_path / "none.json"), "--against", str(base)], "Cannot read"),
    ):
        assert main(["check-results", *words]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.strip().splitlines()) == 1

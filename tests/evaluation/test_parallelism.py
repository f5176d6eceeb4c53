"""AUP by its definition; accuracy at matched cost and cost at matched accuracy by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jointsampler.evaluation.differences import as_units
from jointsampler.evaluation.parallelism import accuracy_at, aup, curves, speed_at
from jointsampler.evaluation.results import MethodResult
from jointsampler.evaluation.stats import bootstrap


def read(function, points, *rest) -> float:
    speeds, accuracies = np.array(points).T
    return float(function(speeds, accuracies, *rest))


def test_aup_of_a_curve_without_loss_is_its_area():
    assert read(aup, [(1.0, 80.0), (2.0, 80.0), (4.0, 80.0)], 80.0) == pytest.approx(4 * 80)
    assert read(aup, [(1.0, 80.0)], 90.0) == pytest.approx(80)


def test_aup_weighs_a_loss_and_leaves_out_what_lies_five_points_below_the_slowest():
    points = [(4.0, 76.0), (1.0, 80.0), (9.0, 74.9), (2.0, 10.0)]  # the last two are out
    best = 95.0
    weigh = [y * math.exp(-3 * (1 - y / best)) for y in (80, 76)]
    assert read(aup, points, best) == pytest.approx(80 + 3 * sum(weigh) / 2)


def test_an_accuracy_above_the_slowest_is_not_weighed_above_one():
    assert read(aup, [(1.0, 50.0), (2.0, 60.0)], 60.0) == pytest.approx(
        50 + (50 * math.exp(-3 * (1 - 50 / 60)) + 60) / 2
    )


LINE = [(2.0, 0.8), (1.0, 0.9), (4.0, 0.4)]  # tokens per cost, accuracy: costs 1/2, 1, 1/4


def test_between_settings_accuracy_and_cost_per_token_mix():
    for speed, accuracy in ((2, 0.8), (1 / 0.75, 0.85), (9, 0.4), (0.5, 0.9)):
        assert read(accuracy_at, LINE, speed) == pytest.approx(accuracy)
    for accuracy, speed in ((0.85, 1 / 0.75), (0.6, 1 / 0.375), (0.4, 4), (0.95, 1), (0.1, 4)):
        assert read(speed_at, LINE, accuracy) == pytest.approx(speed)
    for accuracy in (0.45, 0.7, 0.83):
        speed = read(speed_at, LINE, accuracy)
        assert read(accuracy_at, LINE, speed) == pytest.approx(accuracy)


def test_the_fastest_point_that_is_good_enough_counts_though_a_slower_one_is_not():
    assert read(speed_at, [(1.0, 0.9), (2.0, 0.5), (4.0, 0.8)], 0.8) == pytest.approx(4)


def test_many_curves_are_read_as_one_by_one():
    rng = np.random.default_rng(0)
    speeds, accuracies = 1 + 7 * rng.random((50, 4)), rng.random((50, 4))
    for function, rest in ((accuracy_at, 2.5), (speed_at, 0.6)):
        whole = function(speeds, accuracies, rest)
        single = [function(s, a, rest) for s, a in zip(speeds, accuracies, strict=True)]
        assert whole == pytest.approx(np.array(single))
    found = accuracy_at(speeds, accuracies, 2.5)
    for i in range(50):
        order = np.argsort(1 / speeds[i])
        assert found[i] == pytest.approx(
            np.interp(1 / 2.5, (1 / speeds[i])[order], accuracies[i][order])
        )


def row(method: str, right: np.ndarray, speed: float, k: int | None = None) -> MethodResult:
    tokens = np.full(len(right), 8.0)
    columns = {
        "accuracy": (right, np.ones(len(right))),
        "task_tokens_per_pass": (tokens, tokens / (k or 1)),
        "task_tokens_per_cost": (tokens, tokens / speed),
    }
    speeds = dict.fromkeys(
        ("teacher_passes", "teacher_rows", "update_passes", "tokens_per_pass", "tokens_per_row",
         "tokens_per_cost", "tokens_per_second"), 1.0,
    )  # fmt: skip
    return MethodResult(
        method=method, setting={} if k is None else {"k": k}, samples=len(right),
        accuracy=bootstrap(lambda mean: mean[..., 0], right[:, None]),
        task_tokens_per_pass=k or 1, task_tokens_per_cost=speed,
        units={name: as_units(np.stack(pair, axis=1)) for name, pair in columns.items()}, **speeds,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """Sequential .9 right; joint loses .1 at k = 4 and .6 at k = 8 of 200 prompts; marginal more."""
    place = np.arange(200)
    right = {share: (place < 200 * share).astype(float) for share in (0.9, 0.8, 0.3, 0.2)}
    return curves([
        row("sequential", right[0.9], 1.0), row("marginal", right[0.2], 4.0, 4),
        row("joint", right[0.8], 2.5, 4), row("joint", right[0.3], 4.0, 8),
    ])  # fmt: skip


def test_every_method_has_a_curve_that_begins_with_sequential(made):
    assert [curve.label for curve in made] == ["marginal", "joint"]
    joint = made[1]
    assert [p.title for p in joint.points] == ["sequential", "joint, k = 4", "joint, k = 8"]
    assert [p.tokens_per_cost for p in joint.points] == [1.0, 2.5, 4.0]


def test_curves_are_read_off_where_they_reach(made):
    joint = made[1]
    assert [at.level for at in joint.accuracy_at] == [1.5, 2.0, 3.0, 4.0]
    at_four = joint.accuracy_at[-1].value
    assert at_four.value == pytest.approx(0.3) and at_four.n == 200
    assert at_four.low < 0.3 < at_four.high
    nine = next(at for at in joint.cost_at if at.level == 0.9).value  # .81 of the prompts
    assert nine.value == pytest.approx(1 / (1 - 0.9 * 0.6)) and nine.low < nine.value < nine.high
    # Ten points of accuracy are lost at the first setting, so AUP has sequential's part alone.
    assert joint.aup.value == joint.aup_cost.value == pytest.approx(90)


def test_the_resamples_of_a_curve_are_paired():
    """Two methods whose answers are equal prompt by prompt have one accuracy in every resample."""
    right = (np.arange(100) % 3 > 0).astype(float)
    (curve,) = curves([row("sequential", right, 1.0), row("joint", right, 2.0, 2)])
    for at in curve.cost_at:  # never slower, whatever the resample
        assert at.value.low == at.value.high == pytest.approx(2.0)
    # Without loss and without noise between the points AUP is speed x accuracy, and as noisy as that.
    assert curve.aup.value == pytest.approx(2 * 100 * right.mean())


def test_without_sequential_there_is_no_curve():
    assert curves([row("joint", np.ones(4), 2.0, 2)]) == []

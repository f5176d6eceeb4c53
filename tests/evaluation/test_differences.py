"""Pairs of rows: shared noise cancels, and a difference inside the noise is called none."""

from __future__ import annotations

import numpy as np
import pytest

from jointsampler.evaluation.differences import as_units, difference, differences
from jointsampler.evaluation.measured import Metric
from jointsampler.evaluation.results import MethodResult


def row(method: str, over: np.ndarray, metric: Metric = "accuracy", k: int | None = 4):
    speeds = dict.fromkeys(
        ("teacher_passes", "teacher_rows", "update_passes", "tokens_per_pass", "tokens_per_row",
         "tokens_per_cost", "tokens_per_second"), 1.0,
    )  # fmt: skip
    columns = np.stack([over, np.ones(len(over))], axis=1)
    setting = {} if k is None else {"k": k}
    units = {metric: as_units(columns)}
    return MethodResult(method=method, setting=setting, samples=len(over), units=units, **speeds)


def test_noise_that_two_rows_share_cancels():
    """The prompts differ by 10 and the rows by .1: each interval is wide, the difference is known."""
    rng = np.random.default_rng(0)
    prompts = rng.normal(0, 10, 100)
    a, b = row("joint", prompts + 0.1 + rng.normal(0, 0.1, 100)), row("refresh", prompts)
    found = difference(a, b, "accuracy")
    assert found.known and found.value.low > 0 and found.value.value == pytest.approx(0.1, abs=0.03)
    assert str(found).startswith("+0.") and str(found).endswith("n = 100")
    shuffled = difference(a, row("refresh", rng.permutation(prompts)), "accuracy")
    assert not shuffled.known


def test_a_difference_inside_the_noise_is_printed_as_none():
    right = np.array([1.0, 0, 1, 1, 0, 1, 0, 0])
    found = difference(row("joint", right), row("refresh", right[::-1]), "accuracy")
    assert not found.known and str(found) == "no difference at n = 8"


def test_equal_rows_do_not_differ():
    found = difference(row("joint", np.ones(5)), row("refresh", np.ones(5)), "accuracy")
    assert str(found) == "no difference at n = 5"


def test_the_interval_of_a_paired_difference_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        prompts = rng.random(80)
        a, b = (rng.random(80) < np.clip(prompts + gain, 0, 1) for gain in (0.1, 0.0))
        truth = np.clip(prompts + 0.1, 0, 1).mean() - prompts.mean()
        found = difference(row("a", a.astype(float)), row("b", b.astype(float)), "accuracy").value
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / 200 <= 1.0


def test_pairs_are_rows_of_one_setting_and_every_row_with_sequential():
    rows = [
        row("sequential", np.ones(3), k=None), row("marginal", np.zeros(3)), row("joint", np.ones(3)),
        row("joint", np.ones(3), k=8), row("refresh", np.ones(3), metric="nll"),
        row("refresh", np.ones(4), k=8),
    ]  # fmt: skip
    pairs = {(d.row, d.against) for d in differences(rows)}
    assert pairs == {
        ("marginal, k = 4", "sequential"),
        ("joint, k = 4", "sequential"),
        ("joint, k = 8", "sequential"),
        ("joint, k = 4", "marginal, k = 4"),
    }


def test_other_methods_can_be_the_base_and_two_rows_differ_once():
    rows = [
        row("sequential", np.ones(3), k=None), row("refresh", np.ones(3)), row("joint", np.zeros(3)),
        row("refresh", np.ones(3), k=8),
    ]  # fmt: skip
    pairs = [(d.row, d.against) for d in differences(rows, ("refresh", "sequential"))]
    assert sorted(pairs) == [
        ("joint, k = 4", "refresh, k = 4"),
        ("joint, k = 4", "refresh, k = 8"),
        ("joint, k = 4", "sequential"),
        ("refresh, k = 4", "sequential"),
        ("refresh, k = 8", "refresh, k = 4"),
        ("refresh, k = 8", "sequential"),
    ]

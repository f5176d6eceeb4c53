"""Two files with the same items: shared noise cancels; with other items the reason is said."""

from __future__ import annotations

import numpy as np
import pytest

from jointsampler.evaluation.differences import as_units
from jointsampler.evaluation.gate import check_results
from jointsampler.evaluation.measured import Metric
from jointsampler.evaluation.pairing import (
    NO_ITEMS,
    NO_UNITS,
    OTHER_ITEMS,
    aups,
    figures,
    gap,
    items_of,
)
from jointsampler.evaluation.parallelism import curves
from jointsampler.evaluation.results import Results
from jointsampler.evaluation.stats import bootstrap, difference_of
from tests.evaluation.test_parallelism import row as on_tasks
from tests.report.test_report import made

N = 64
SHARED = np.random.default_rng(0).gamma(2.0, 1.0, N)  # how hard each item is, in every file


def file(gain: float, seed: int = 1, items: str | None = "a") -> Results:
    """The example results with units: joint's nats are ``gain`` of the items' own, nearly."""
    results, rng = made(judge=True), np.random.default_rng(seed)
    own = {
        "marginal": SHARED,
        "joint": gain * SHARED * rng.uniform(0.98, 1.02, N),
    }
    nll = {"sequential": SHARED, "joint": SHARED + 0.1 * gain + rng.normal(0, 0.01, N)}
    for row in results.methods:
        for metric, nats in (("nats_per_token", own), ("nll", nll)):
            if row.method in nats:
                columns = np.stack([nats[row.method], np.ones(N)], axis=1)
                row.units[metric] = as_units(columns)
        if row.method in own:
            fidelity = row.kl["recorded"]
            fidelity.nats_per_token = bootstrap(lambda m: m[..., 0], own[row.method][:, None])
    if items is not None:
        results.items = dict.fromkeys(("nats_per_token", "nll"), items)
    return results


def joint(results: Results):
    return figures(results, results.of("joint", 4))


def test_what_two_files_share_cancels():
    """Items differ by more than the files do: the intervals alone tell nothing, the pairs do."""
    a, b = (joint(file(gain, seed))["nats_per_token"] for gain, seed in ((0.5, 1), (0.45, 2)))
    change = a.minus(b)
    assert change.unpaired == "" and change.value.n == N
    assert 0 < change.value.low < 0.05 * SHARED.mean() < change.value.high
    assert difference_of(a.value, b.value).low < 0


def test_captured_is_paired_with_marginal_of_its_own_file():
    a, b = (joint(file(gain))["captured"] for gain in (0.45, 0.5))
    found = a.minus(b)
    assert found.unpaired == "" and found.value.value == pytest.approx(0.05, abs=0.002)
    assert found.value.low > 0.048 and found.value.high < 0.052  # both files' noise is one


@pytest.mark.parametrize(
    ("items", "why"), [("b", OTHER_ITEMS), (None, NO_ITEMS)], ids=["other", "unknown"]
)
def test_without_the_same_items_the_difference_is_that_of_the_intervals(items, why):
    a, b = (joint(file(0.5, 1, i))["nats_per_token"] for i in ("a", items))
    change = a.minus(b)
    assert change.unpaired == why and change.value == difference_of(a.value, b.value)


def test_a_figure_that_is_an_interval_alone_is_not_paired():
    a, b = (joint(file(0.5))["mauve"] for _ in range(2))
    assert a.minus(b).unpaired == NO_UNITS


def test_a_distance_to_sequential_is_paired_in_all_four_rows():
    found = []
    for gain in (2.0, 1.0):
        results = file(gain)
        own, aim = (
            figures(results, results.of(m, k))["nll"] for m, k in (("joint", 4), ("sequential", 1))
        )
        found.append(gap(own, aim))
    change = found[0].minus(found[1])
    assert change.unpaired == "" and change.value.low > 0.09
    assert change.value.value == pytest.approx(0.1, abs=1e-6)


def test_aup_is_paired_prompt_by_prompt():
    right = (np.arange(200) % 5 > 0).astype(float)
    worse = right * (np.arange(200) % 40 > 1)
    files = []
    for answers in (right, worse):
        rows = [on_tasks("sequential", right, 1.0), on_tasks("joint", answers, 2.0, 2)]
        metrics: tuple[Metric, ...] = ("accuracy", "task_tokens_per_pass")
        changes = {"methods": rows, "curves": curves(rows), "items": dict.fromkeys(metrics, "a")}
        files.append(made(judge=False).model_copy(update=changes))
    a, b = (aups(results)["joint"] for results in files)
    assert a.minus(a).value.low == a.minus(a).value.high == 0
    change = b.minus(a)
    assert change.value.value == pytest.approx(b.value.value - a.value.value, abs=1e-3)
    assert change.value.high < 0 and difference_of(b.value, a.value).high > change.value.high


def test_the_gate_sees_a_loss_that_the_intervals_hide():
    base, worse = file(0.45, 1), file(0.5, 2)
    at = ("joint, k = 4", "nats_per_token")
    outcomes = {(v.row, v.metric): v for v in check_results(worse, base)}
    assert outcomes[at].outcome == "regressed"
    assert "; in pairs +" in str(outcomes[at]) and str(outcomes[at]).endswith(f"n = {N}")
    worse.items = dict.fromkeys(worse.items, "b")
    found = {(v.row, v.metric): v for v in check_results(worse, base)}
    assert found[at].outcome == "within noise" and "pairs" not in str(found[at])


def test_digests_are_equal_where_all_parts_are():
    assert items_of("a", 1, [2]) == items_of("a", 1, (2,)) != items_of("a", 1, [3])

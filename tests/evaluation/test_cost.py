"""The cost of an update beside a full pass, and the tokens that a unit of cost buys."""

from __future__ import annotations

import pytest

from jointsampler import Refresh, generate
from jointsampler.evaluation.cost import UpdateCost, update_cost
from jointsampler.updates import NoUpdate
from tests.support.analytic import OracleUpdate, skewed_teacher


def test_an_update_is_measured_cheaper_than_a_full_pass(tiny, shipped):
    """Rerunning 4 of 49 columns, or one layer, costs less than the ten layers of the teacher."""
    for update in (Refresh(4), shipped):
        cost = update_cost(tiny, update, batch=4, length=48, repeats=3)
        assert 0 < cost.ratio < 0.9
        assert cost.ratio == pytest.approx(cost.update_seconds / cost.full_seconds)
        assert (cost.batch, cost.length) == (4, 48)


def test_no_update_costs_less_than_any(tiny):
    """What remains is the choice of position and token."""
    none = update_cost(tiny, NoUpdate(), batch=4, length=48, repeats=3)
    assert 0 <= none.ratio < update_cost(tiny, Refresh(48), batch=4, length=48, repeats=3).ratio


def test_tokens_per_cost_counts_updates_at_their_price_and_every_row_of_a_verification():
    cost = UpdateCost(1.0, 0.1, 0.1, 1, 1)
    assert cost.tokens_per_cost(40, 10, 30) == pytest.approx(40 / 13)
    teacher = skewed_teacher(1)
    settings = dict(k=4, num_samples=10, max_new_tokens=4)
    joint, lossless = (
        generate(teacher, OracleUpdate(teacher), method=method, **settings)
        for method in ("joint", "lossless")
    )

    def speed(out):
        counts = (out.effective_tokens, out.teacher_rows, out.update_passes)
        return cost.tokens_per_cost(*(int(count.sum()) for count in counts))

    assert speed(joint) == pytest.approx(4 / (1 + 0.3))
    # A full pass, then four prefixes at once: five rows, though only two passes.
    assert lossless.teacher_passes.unique().tolist() == [2]
    assert speed(lossless) == pytest.approx(4 / (5 + 0.3))

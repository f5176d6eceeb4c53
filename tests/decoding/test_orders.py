"""Order policies reproduce their definitions on hand-computed cases."""

from __future__ import annotations

import math

import pytest
import torch

from jointsampler import UserError
from jointsampler.decoding.orders import ORDERS, OrderView, get_order
from jointsampler.decoding.orders.entropy import entropy

LAWS = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2], [0.49, 0.49, 0.02]])
VIEW = OrderView(LAWS.log(), torch.tensor([4, 0, 2]), torch.tensor([9, 9, 9]), seed=1)


def test_entropy_is_the_textbook_value_and_ignores_forbidden_ids():
    expected = -(LAWS * LAWS.log()).sum(-1)
    assert torch.allclose(entropy(LAWS.log()), expected, atol=1e-6)
    with_forbidden = torch.cat([LAWS.log(), torch.full((3, 2), -torch.inf)], dim=1)
    assert torch.allclose(entropy(with_forbidden), expected, atol=1e-6)


def test_entropy_is_accurate_relative_to_itself_near_certainty():
    for gap in (10.0, 20.0, 30.0):
        logits = torch.tensor([gap, 0.0, 0.0])
        exact = torch.log_softmax(logits.double(), -1)
        # In float64: H = -sum p log p, with log p_max through log1p to keep the digits.
        rest = 2 * math.exp(-gap)
        log_top = -math.log1p(rest)
        value = -(math.exp(log_top) * log_top) - 2 * math.exp(exact[1]) * exact[1].item()
        assert entropy(logits).item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "first"), [("entropy", 2), ("confidence", 1), ("margin", 1), ("left_to_right", 1)]
)
def test_the_first_position_is_the_one_the_definition_says(name, first):
    assert get_order(name).score(VIEW).argmin().item() == first


def test_random_order_depends_on_row_and_position_not_on_logits():
    policy = get_order("random")
    a = policy.score(VIEW)
    b = policy.score(OrderView(None, VIEW.positions, VIEW.rows, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, policy.score(OrderView(None, VIEW.positions, VIEW.rows + 1, 1)))


def test_an_unknown_order_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'entropy'"):
        get_order("entropi")
    assert set(ORDERS) == {"entropy", "confidence", "margin", "random", "left_to_right"}

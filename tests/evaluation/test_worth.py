"""The worth of a sampler: fidelity at a speed, computed by hand."""

from __future__ import annotations

import pytest

from jointsampler.evaluation.worth import curve, nats_at_speed, speed, speed_at_nats

NATS = {2: 0.1, 4: 0.4}  # per token


def test_speed_is_tokens_per_unit_of_cost():
    assert speed(1, 0.3) == 1
    assert speed(4, 0.0) == 4
    assert speed(4, 1 / 3) == pytest.approx(2)


def test_one_token_per_pass_is_exact():
    assert curve(NATS, 0.2)[-1] == (1.0, 0.0)
    assert nats_at_speed(NATS, 0.2, 1.0) == 0


def test_between_two_k_cost_and_nats_are_those_of_mixed_rounds():
    """Half of the tokens in rounds of 2 and half in rounds of 4: cost and nats average."""
    c = 0.2
    cost = (1 / speed(2, c) + 1 / speed(4, c)) / 2
    assert nats_at_speed(NATS, c, 1 / cost) == pytest.approx(0.25)
    assert speed_at_nats(NATS, c, 0.25) == pytest.approx(1 / cost)


def test_a_speed_that_no_k_reaches_is_worth_nothing():
    assert nats_at_speed(NATS, 0.5, 3.0) == float("inf")


def test_a_cheaper_pass_buys_more_at_the_same_fidelity():
    assert nats_at_speed(NATS, 0.1, 1.8) < nats_at_speed(NATS, 0.3, 1.8)
    assert speed_at_nats(NATS, 0.1, 0.2) > speed_at_nats(NATS, 0.3, 0.2)


def test_a_bound_above_every_point_gives_the_fastest():
    assert speed_at_nats(NATS, 0.2, 1.0) == pytest.approx(speed(4, 0.2))
    assert speed_at_nats(NATS, 0.2, 0.0) == 1

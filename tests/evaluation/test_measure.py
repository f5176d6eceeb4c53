"""MAUVE, NLL and cost: known values and known directions."""

from __future__ import annotations

import numpy as np
import pytest

from jointsampler.evaluation.cost import PassCost, pass_cost
from jointsampler.evaluation.judges import Scores
from jointsampler.evaluation.mauve import mauve
from jointsampler.evaluation.nll import generative_nll


def clouds(shift: float, n: int = 200, groups: int = 2, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(shift, 1, (n, 8)) + np.array([3.0] + [0.0] * 7) for _ in range(groups)]


def test_mauve_is_near_one_for_one_law_and_falls_with_distance():
    reference = clouds(0, seed=0)
    same, near, far = (mauve(reference, clouds(shift, seed=1)) for shift in (0, 0.7, 3))
    assert same.value > 0.9 and same.replicates == 10 and same.n == 200
    assert same.low > near.high and near.low > far.high
    assert far.value < 0.2


def test_mauve_repeats_itself():
    a, b = (mauve(clouds(0), clouds(0.5, seed=1)) for _ in range(2))
    assert a == b


def test_nll_weighs_tokens_not_texts_and_ignores_empty_ones():
    scores = Scores(np.array([10.0, 2.0, 0.0]), np.array([5, 1, 0]), np.empty((3, 0)))
    assert generative_nll(scores).value == pytest.approx(2.0)


def test_cost_weighted_tokens_count_sampler_passes_at_their_price():
    cost = PassCost(1.0, 0.1, 0.1, 1, 1)
    assert cost.tokens_per_pass(40, 10, 30) == pytest.approx(40 / 13)


def test_a_sampler_pass_is_measured_cheaper_than_a_teacher_pass(tiny, trained_like):
    cost = pass_cost(tiny, trained_like, batch=16, length=32)
    assert 0 < cost.ratio < 0.8
    assert cost.ratio == pytest.approx(cost.sampler_seconds / cost.teacher_seconds)

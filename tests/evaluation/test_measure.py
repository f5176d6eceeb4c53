"""MAUVE, NLL and intervals: known values and known directions."""

from __future__ import annotations

import numpy as np
import pytest

from jointsampler.evaluation.judges import Scores
from jointsampler.evaluation.mauve import mauve, over_seeds
from jointsampler.evaluation.nll import generative_nll
from jointsampler.evaluation.stats import Interval


def clouds(shift: float, n: int = 200, groups: int = 2, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(shift, 1, (n, 8)) + np.array([3.0] + [0.0] * 7) for _ in range(groups)]


def test_mauve_is_near_one_for_one_distribution_and_falls_with_distance():
    reference = clouds(0, seed=0)
    same, near, far = (mauve(reference, clouds(shift, seed=1)) for shift in (0, 0.7, 3))
    assert same.value > 0.9 and same.n == 2
    assert same.value > near.value > far.value
    assert far.value < 0.2


def test_mauve_repeats_itself():
    a, b = (mauve(clouds(0), clouds(0.5, seed=1)) for _ in range(2))
    assert a == b


def test_the_interval_of_mauve_is_students_t_over_generation_seeds():
    score = over_seeds([0.80, 0.84, 0.88])
    half = 4.303 * 0.04 / 3**0.5  # t at 97.5 % with two degrees of freedom
    assert score.n == 3 and score.value == pytest.approx(0.84)
    assert (score.low, score.high) == pytest.approx((0.84 - half, 0.84 + half), abs=1e-4)
    wide = over_seeds([0.9, 0.99])
    assert wide.high == 1.0 and 0 <= wide.low < 0.5  # two seeds say little, and it is cut to [0, 1]


def test_one_generation_seed_gives_no_interval():
    score = mauve(clouds(0, groups=1), clouds(0, groups=1, seed=1))
    assert score.n == 1 and score.low is None and score.high is None
    assert str(score) == f"{score.value:.3f}"
    assert Interval.model_validate_json(score.model_dump_json()) == score


def test_kmeans_seeds_do_not_narrow_the_interval():
    """More k-means seeds make a score steadier, not its interval over generation seeds smaller."""
    few, many = (mauve(clouds(0), clouds(0.5, seed=1), kmeans_seeds=s) for s in (5, 20))
    assert (many.high - many.low) > 0.3 * (few.high - few.low)


def test_nll_weighs_tokens_not_texts_and_ignores_empty_ones():
    scores = Scores(np.array([10.0, 2.0, 0.0]), np.array([5, 1, 0]), np.empty((3, 0)))
    assert generative_nll(scores).value == pytest.approx(2.0)


def test_texts_of_one_prompt_are_one_unit_of_the_nll():
    """Two prompts in turn, whose texts are equal: more texts do not narrow the interval."""
    few, many = (
        generative_nll(
            Scores(np.tile([1.0, 3.0], n), np.ones(2 * n, int), np.empty((2 * n, 0))),
            np.arange(2 * n) % 2,
        )
        for n in (1, 50)
    )
    assert few == many and few.n == 2 and few.value == 2.0


def test_intervals_overlap_only_where_both_are_known():
    a, b, c = (Interval(value=v, low=v - 0.1, high=v + 0.1, n=2) for v in (0.5, 0.65, 0.9))
    assert a.overlaps(b) and b.overlaps(a) and not a.overlaps(c)
    assert not a.overlaps(Interval(value=0.5, n=1))

"""The meter gives closed-form values where they exist."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jointsampler import JointSampler, UserError, block_kl, generate
from jointsampler.evaluation.stats import bootstrap
from tests.support.analytic import OracleSampler, shuffle_nats, shuffle_teacher, skewed_teacher


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_a_shuffle_revealed_at_once_costs_n_ln_n_minus_ln_n_factorial(n):
    teacher = shuffle_teacher(n)
    rows = generate(teacher, method="sequential", k=1, num_samples=20, max_new_tokens=n)
    result = block_kl(teacher, None, rows, k=n)
    assert result.marginal.value == pytest.approx(shuffle_nats(n), abs=1e-4)
    assert result.marginal.high - result.marginal.low < 1e-4  # every trajectory costs the same
    assert result.sampler is None and result.captured is None


def test_the_teacher_itself_has_no_distance_and_captures_everything():
    teacher = shuffle_teacher(4)
    rows = generate(teacher, method="sequential", k=1, num_samples=20, max_new_tokens=4)
    result = block_kl(teacher, OracleSampler(teacher), rows, k=4)
    assert result.sampler.value == pytest.approx(0, abs=1e-5)
    assert result.captured.value == pytest.approx(1, abs=1e-5)


def test_marginal_block_kl_is_the_total_correlation_of_a_known_law():
    """All positions at once: sum of marginal entropies minus joint entropy, up to sampling error."""
    teacher = skewed_teacher(2)
    law = teacher.weights.numpy()
    words = teacher.words.numpy()
    joint = -(law * np.log(law)).sum()
    marginals = 0.0
    for position in range(4):
        p = np.array([law[words[:, position] == s].sum() for s in range(3)])
        marginals += -(p * np.log(p)).sum()
    rows = generate(
        teacher, method="sequential", k=1, num_samples=4000, max_new_tokens=4, batch_size=2000
    )
    result = block_kl(teacher, None, rows, k=4, batch_size=4000)
    assert result.marginal.low < marginals - joint < result.marginal.high
    assert result.marginal.high - result.marginal.low < 0.1


def test_an_untrained_sampler_captures_nothing(tiny, samples):
    sampler = JointSampler.for_teacher(tiny, width=32)
    result = block_kl(tiny, sampler, samples, k=4)
    assert result.sampler.value == pytest.approx(result.marginal.value, rel=1e-5)
    assert result.captured.value == pytest.approx(0, abs=1e-5)
    assert result.blocks == 12 * 4


def test_the_result_does_not_depend_on_the_batch(tiny, trained_like, samples):
    a, b = (block_kl(tiny, trained_like, samples, k=4, batch_size=size) for size in (5, 64))
    assert np.allclose(a.per_trajectory, b.per_trajectory, rtol=1e-4)


def test_the_shipped_teacher_has_something_to_capture(tiny):
    rows = generate(tiny, method="sequential", k=1, num_samples=48, max_new_tokens=32, seed=77)
    assert block_kl(tiny, None, rows, k=4).marginal.low > 1.0


def test_temperature_enters_both_sides():
    teacher = shuffle_teacher(3)
    rows = generate(teacher, method="sequential", k=1, num_samples=4, max_new_tokens=3)
    # Uniform laws stay uniform under any temperature.
    assert block_kl(teacher, None, rows, k=3, temperature=0.5).marginal.value == pytest.approx(
        shuffle_nats(3), abs=1e-4
    )


@pytest.mark.parametrize("k", [1, 17])
def test_a_k_without_blocks_is_refused(tiny, samples, k):
    with pytest.raises(UserError, match="k between 2 and"):
        block_kl(tiny, None, samples, k=k)


def test_a_parallel_generation_is_no_ground_truth(tiny):
    out = generate(tiny, method="marginal", k=2, num_samples=2, max_new_tokens=8)
    with pytest.raises(UserError, match="one token per teacher pass"):
        block_kl(tiny, None, out, k=2)


def test_a_bootstrap_interval_covers_the_mean_of_a_normal_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        found = bootstrap(lambda m: m[..., 0], rng.normal(2.0, 1.0, (60, 1)), 400, seed=trial)
        hits += found.low < 2.0 < found.high
    assert 0.88 <= hits / 200 <= 0.99
    assert math.isclose(found.n, 60)
    assert torch.tensor(found.value).isfinite()

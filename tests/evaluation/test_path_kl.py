"""Path KL is block KL where blocks are of one length, and zero where the model is the teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jointsampler import Trajectories, UserError, block_kl, generate
from jointsampler.decoding.methods import get_method
from jointsampler.evaluation.path_kl import Reference, calibration, path_kl
from tests.support.analytic import OracleSampler, shuffle_nats, shuffle_teacher


@pytest.fixture(scope="module")
def rows(tiny, samples):
    return Trajectories.from_generation(samples, 5, tiny)


def walk(teacher, sampler, rows, name, k=4, **settings):
    method = get_method(name)
    reference = Reference(teacher, rows)
    return path_kl(teacher, sampler, reference, method, method.stop(k, rows.length, settings, 8))


@pytest.mark.parametrize(("method", "column"), [("marginal", 0), ("joint", 1)])
@pytest.mark.parametrize("k", [2, 4])
def test_at_fixed_k_it_is_block_kl_per_token(tiny, trained_like, rows, method, column, k):
    whole = block_kl(tiny, trained_like, rows, k=k)
    path = walk(tiny, trained_like, rows, method, k)
    assert path.nats_per_token.value == pytest.approx(
        whole.per_trajectory[:, column].mean() / k, rel=1e-4
    )
    assert path.tokens_per_teacher_pass == k
    assert (path.sampler_passes == (16 // k * (k - 1) if method == "joint" else 0)).all()


def test_sequential_has_none_and_marginal_at_once_has_the_total_correlation():
    teacher = shuffle_teacher(4)
    out = generate(teacher, method="sequential", k=1, num_samples=8, max_new_tokens=4)
    rows = Trajectories.from_generation(out, 0, teacher)
    assert walk(teacher, None, rows, "sequential").nats_per_token.value == 0
    at_once = walk(teacher, None, rows, "marginal", k=4).nats_per_token
    assert at_once.value == pytest.approx(shuffle_nats(4) / 4, rel=1e-4)
    oracle = walk(teacher, OracleSampler(teacher), rows, "joint", k=4).nats_per_token
    assert oracle.value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("threshold", {"threshold": 0.5}),
        ("joint_factor", {"factor": 1.0}),
        ("adaptive", {"budget": 0.5}),
    ],
)
def test_every_reveal_is_counted_once_whatever_the_rule(tiny, trained_like, rows, method, settings):
    path = walk(tiny, trained_like, rows, method, **settings)
    assert 1 <= path.tokens_per_teacher_pass <= 16
    assert path.tokens_per_teacher_pass == pytest.approx(16 * len(rows) / path.teacher_passes.sum())
    chosen = get_method(method)
    few = path_kl(
        tiny, trained_like, Reference(tiny, rows, 5), chosen, chosen.stop(4, 16, settings, 8)
    )
    assert few.nats_per_token.value == pytest.approx(path.nats_per_token.value, rel=1e-4)
    assert np.array_equal(few.teacher_passes, path.teacher_passes)


def test_a_larger_budget_gives_longer_blocks_and_more_kl(tiny, trained_like, rows):
    tight, loose = (walk(tiny, trained_like, rows, "adaptive", budget=b) for b in (1e-6, 1e6))
    assert tight.tokens_per_teacher_pass < loose.tokens_per_teacher_pass == 8
    assert tight.nats_per_token.value < loose.nats_per_token.value
    assert len(loose.guesses) == 12 * 14  # every token but the first of each block


def test_calibration_bins_hold_every_guess_once():
    guesses = np.stack([np.arange(20.0), np.arange(20.0) * 2], axis=1)
    bins = calibration(guesses[torch.randperm(20).numpy()], bins=4)
    assert [n for _, _, n in bins] == [5] * 4
    assert all(true == pytest.approx(2 * guess) for guess, true, _ in bins)


def test_a_verified_method_and_a_missing_sampler_are_refused(tiny, rows):
    with pytest.raises(UserError, match="the teacher's own law"):
        walk(tiny, None, rows, "lossless")
    with pytest.raises(UserError, match="picks its own positions"):
        walk(tiny, None, rows, "klass")
    with pytest.raises(UserError, match="needs a sampler"):
        walk(tiny, None, rows, "joint")

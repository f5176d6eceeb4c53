"""The KL of rounds of k has its closed-form values where there are any."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from jointsampler import JointSampler, Refresh, Trajectories, UserError, block_kl, generate
from jointsampler.evaluation.kl import Reference, summarize
from jointsampler.evaluation.stats import bootstrap
from tests.support.analytic import (
    OracleUpdate,
    shuffle_nats,
    shuffle_teacher,
    skewed_teacher,
)


def sequential(teacher, count: int, seed: int = 0, length: int = 0, **settings) -> Trajectories:
    out = generate(
        teacher, method="sequential", num_samples=count, seed=seed, batch_size=2000,
        max_new_tokens=length or teacher.length, **settings,
    )  # fmt: skip
    return Trajectories.from_generation(out, seed, teacher)


@pytest.mark.parametrize("path", ["recorded", "own", "sampled"])
@pytest.mark.parametrize("n", [3, 4, 6])
def test_a_shuffle_revealed_at_once_costs_n_ln_n_minus_ln_n_factorial(n, path):
    teacher = shuffle_teacher(n)
    found = block_kl(teacher, None, sequential(teacher, 20), k=n, path=path)
    if path != "sampled":  # along permutations every trajectory costs the same
        assert found.marginal.value == pytest.approx(shuffle_nats(n), abs=1e-4)
        assert found.marginal.high - found.marginal.low < 1e-4
    assert found.marginal.value > 0 and found.rounds == 20
    assert found.update is None and found.captured is None


@pytest.mark.parametrize("path", ["recorded", "own", "sampled"])
@pytest.mark.parametrize("k", [2, 4])
def test_an_update_without_error_has_no_distance_and_captures_everything(path, k):
    for teacher in (shuffle_teacher(4), skewed_teacher(3)):
        found = block_kl(teacher, OracleUpdate(teacher), sequential(teacher, 20), k=k, path=path)
        assert found.update.value == pytest.approx(0, abs=1e-5)
        assert found.captured.value == pytest.approx(1, abs=1e-5)
        every = block_kl(teacher, Refresh(99), sequential(teacher, 20), k=k, path=path)
        assert every.captured.value == pytest.approx(1, abs=1e-5)


def test_the_marginal_kl_is_the_total_correlation_of_a_known_joint():
    """All positions at once: sum of marginal entropies minus joint entropy, up to sampling error."""
    teacher = skewed_teacher(2)
    joint, words = teacher.weights.numpy(), teacher.words.numpy()
    total = (joint * np.log(joint)).sum()
    for position in range(4):
        p = np.array([joint[words[:, position] == s].sum() for s in range(3)])
        total -= (p * np.log(p)).sum()
    rows = sequential(teacher, 4000)
    for path in ("recorded", "own"):
        found = block_kl(teacher, None, rows, k=4, batch_size=4000, path=path)
        assert found.marginal.low < total < found.marginal.high
        assert found.marginal.high - found.marginal.low < 0.1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits_of_both_sides(temperature):
    """Against a computation reveal by reveal, in float64."""
    teacher = skewed_teacher(5)
    rows = sequential(teacher, 3, order="left_to_right")

    def log_probs(known, position):
        canvas = torch.tensor([[*known, *[teacher.mask_id] * (4 - len(known))]])
        logits = teacher.logits(teacher.hidden(canvas))[0, position].double()
        return torch.log_softmax(logits[:3] / temperature, -1)

    for row in range(3):
        word = rows.tokens[row].tolist()
        nats = 0.0
        for r in range(1, 4):
            p, q = log_probs(word[:r], r), log_probs([], r)
            nats += (p.exp() * (p - q)).sum().item()
        one = block_kl(teacher, None, rows.select([row]), k=4, temperature=temperature)
        assert one.marginal.value == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_without_a_finite_kl_is_refused(tiny, samples, temperature):
    with pytest.raises(UserError, match="needs a positive temperature"):
        block_kl(tiny, None, samples, k=2, temperature=temperature)


def test_an_untrained_sampler_captures_nothing(tiny, samples):
    sampler = JointSampler.for_teacher(tiny, width=32)
    found = block_kl(tiny, sampler, samples, k=4)
    assert found.update.value == pytest.approx(found.marginal.value, rel=1e-5)
    assert found.captured.value == pytest.approx(0, abs=1e-5)
    assert found.rounds == 12 * 4


@pytest.mark.parametrize("path", ["recorded", "own", "sampled"])
def test_nats_do_not_depend_on_the_batch(tiny, trained_like, path):
    rows = sequential(tiny, 5, seed=2, length=8)
    for update in (trained_like, Refresh(4)):
        a, b = (block_kl(tiny, update, rows, k=4, batch_size=size, path=path) for size in (2, 5))
        assert np.allclose(a.per_trajectory, b.per_trajectory, rtol=1e-4, atol=1e-6)


def test_a_refresh_that_reruns_nothing_but_the_revealed_column_is_the_marginal_model(tiny, samples):
    found = block_kl(tiny, Refresh(1), samples, k=4)
    assert found.captured.value == pytest.approx(0, abs=1e-6)


def test_the_marginal_walk_and_the_teachers_states_are_made_once_per_reference():
    teacher = skewed_teacher(3)
    rows = sequential(teacher, 10)
    reference = Reference(teacher, rows)
    alone = {k: block_kl(teacher, OracleUpdate(teacher), rows, k=k) for k in (2, 4)}
    for k in (2, 4):
        first = block_kl(teacher, OracleUpdate(teacher), rows, k=k, reference=reference)
        assert np.array_equal(first.per_trajectory, alone[k].per_trajectory)
        asked = teacher.rows
        block_kl(teacher, None, rows, k=k, reference=reference)
        assert teacher.rows == asked  # no further pass
        block_kl(teacher, OracleUpdate(teacher), rows, k=k, reference=reference)
        assert teacher.rows == asked + 4 * 10  # the oracle's own four passes per row


def ending(seed: int = 0):
    """A teacher over words of 6 whose symbol 2 is its end token."""
    teacher = skewed_teacher(seed, length=6)
    teacher.end_ids, teacher.eos_id = (2,), 2
    return teacher


def test_what_is_behind_the_end_of_a_row_is_not_counted():
    """Left to right, with one reveal to the last: what stands behind the end changes no figure."""
    teacher = ending()
    rows = sequential(teacher, 60, order="left_to_right")
    garbled = rows.tokens.clone()
    ends = torch.where((rows.tokens == 2).any(1), (rows.tokens == 2).int().argmax(1), 6)
    behind = torch.arange(6) > ends[:, None]
    garbled[behind] = (garbled[behind] + 1) % 3
    assert behind.any(1).sum() > 20
    for k in (2, 3):
        a, b = (
            block_kl(teacher, None, part, k=k, order="left_to_right")
            for part in (rows, dataclasses.replace(rows, tokens=garbled))
        )
        assert np.allclose(a.per_trajectory, b.per_trajectory, atol=1e-6, equal_nan=True)
        counted = torch.minimum(ends + 1, torch.tensor(6)).sum().item()
        assert a.rounds == pytest.approx(counted / k)


def test_a_row_that_ended_early_counts_its_full_rounds_alone():
    teacher = ending()
    rows = sequential(teacher, 60, order="left_to_right", stop_at_end=True)
    assert (rows.reveals < 6).any()
    found = block_kl(teacher, None, rows, k=2, order="left_to_right")
    assert found.rounds == (rows.reveals // 2).sum().item()
    short = rows.reveals < 2
    assert short.any() and (found.per_trajectory[short.numpy()][:, 0] == 0).all()
    oracle = block_kl(teacher, OracleUpdate(teacher), rows, k=2, path="sampled")
    assert oracle.update.value == pytest.approx(0, abs=1e-5)


def test_summarize_pairs_the_trajectories():
    """The ratio's interval is of trajectories drawn together: equal ratios leave no width."""
    marginal = np.array([1.0, 2.0, 5.0, 9.0])
    found = summarize(4, np.stack([marginal, 0.25 * marginal, np.ones(4), np.ones(4)], axis=1))
    assert found.captured.value == pytest.approx(0.75)
    assert found.captured.high - found.captured.low < 1e-9
    assert found.marginal.high - found.marginal.low > 1


def test_nats_are_per_round_of_the_walk_that_they_are_of():
    """A sample without a full round weighs nothing; it is no round without a loss."""
    columns = np.array([[4.0, 1.0, 2.0, 2.0], [4.0, 0.0, 2.0, 0.0]])
    found = summarize(4, columns)
    assert (found.marginal.value, found.update.value, found.captured.value) == (2.0, 0.5, 0.75)


@pytest.mark.parametrize("k", [1, 17])
def test_a_k_without_rounds_is_refused(tiny, samples, k):
    with pytest.raises(UserError, match="k between 2 and"):
        block_kl(tiny, None, samples, k=k)


def test_an_unknown_path_is_refused(tiny, samples):
    with pytest.raises(UserError, match="path must be one of recorded, own, sampled"):
        block_kl(tiny, None, samples, k=2, path="mine")


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
    assert found.n == 60 and math.isfinite(found.value)

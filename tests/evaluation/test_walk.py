"""The walk: any rule's KL reveal by reveal, along recorded, own and sampled paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jointsampler import Refresh, Trajectories, UserError, block_kl, generate
from jointsampler.decoding.methods import get_method
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.sampling import Sampling
from jointsampler.evaluation.kl import Reference, calibration, walk
from tests.support.analytic import OracleUpdate, shuffle_nats, shuffle_teacher, skewed_teacher

LENGTH = 12
RULES = [
    ("threshold", {"threshold": 0.5}),
    ("factor", {"factor": 1.0}),
    ("entropy_bound", {"bound": 0.5}),
    ("adaptive", {"budget": 0.1}),
]


@pytest.fixture(scope="module")
def reference(tiny):
    out = generate(tiny, method="sequential", num_samples=4, max_new_tokens=LENGTH, seed=5)
    return Reference(tiny, Trajectories.from_generation(out, 5, tiny))


def strategy(name, update=None, k=4, length=LENGTH, order="entropy", seed=5, **settings):
    method = get_method(name)
    chosen = method.chosen_update(update)
    return method.strategy(chosen, k, length, settings, get_order(order), Sampling(), seed)


@pytest.mark.parametrize("k", [2, 4])
def test_at_fixed_k_its_nats_per_token_are_block_kl_over_k(reference, shipped, k):
    rows = reference.trajectories
    for path in ("recorded", "own"):
        whole = block_kl(reference.teacher, shipped, rows, k=k, path=path, reference=reference)
        for name, interval, updates in (("marginal", whole.marginal, 0), ("joint", whole.update, k - 1)):  # fmt: skip
            update = None if name == "marginal" else shipped
            found = reference.walk(strategy(name, update, k), path, 1.0)
            assert found.nats_per_token().value == pytest.approx(interval.value / k, rel=1e-4)
            assert (found.teacher_passes == LENGTH // k).all()
            assert (found.update_passes == LENGTH // k * updates).all()


def test_a_recorded_path_has_the_recorded_order_and_its_own_the_methods(reference, shipped):
    order = reference.trajectories.order.numpy()
    along = reference.walk(strategy("joint", shipped), "recorded", 1.0)
    assert np.array_equal(along.position, order)
    own = reference.walk(strategy("joint", shipped), "own", 1.0)
    assert not np.array_equal(own.position, order)
    assert (np.sort(own.position, axis=1) == np.arange(LENGTH)).all()


@pytest.mark.parametrize("update", ["joint", "refresh"])
def test_a_sampled_path_is_the_methods_own_generation(reference, shipped, update):
    chosen = shipped if update == "joint" else Refresh(4)
    rows, teacher = reference.trajectories, reference.teacher
    found = reference.walk(strategy("joint", chosen), "sampled", 1.0)
    out = generate(
        teacher, chosen, method="joint", k=4, num_samples=4, max_new_tokens=LENGTH, seed=5,
        row_ids=rows.row_ids.tolist(), stop_at_end=True,
    )  # fmt: skip
    assert np.array_equal(found.position, out.order.numpy())
    assert np.array_equal(found.round, out.round.numpy())
    assert np.array_equal(found.update_passes, out.update_passes.numpy())


def test_sequential_has_none_and_marginal_at_once_has_the_total_correlation():
    teacher = shuffle_teacher(4)
    out = generate(teacher, method="sequential", num_samples=8, max_new_tokens=4)
    rows = Trajectories.from_generation(out, 0, teacher)

    def nats(name, update=None, path="recorded"):
        return walk(teacher, strategy(name, update, length=4), rows, path=path).nats_per_token()

    assert nats("sequential").value == 0
    assert nats("marginal").value == pytest.approx(shuffle_nats(4) / 4, rel=1e-4)
    for path in ("recorded", "own", "sampled"):
        assert nats("joint", OracleUpdate(teacher), path).value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("method", "settings"), RULES)
@pytest.mark.parametrize("update", ["joint", "refresh"])
def test_every_reveal_is_counted_once_whatever_the_rule(
    reference, shipped, method, settings, update
):
    chosen = strategy(method, shipped if update == "joint" else Refresh(4), **settings)
    whole = reference.walk(chosen, "own", 1.0)
    assert (np.sort(whole.position, axis=1) == np.arange(LENGTH)).all()
    assert (whole.teacher_passes == whole.round.max(1) + 1).all()
    assert 1 < LENGTH / whole.teacher_passes.mean() <= LENGTH
    # The first reveal of a round comes from the full pass and adds nothing.
    first = np.diff(whole.round, axis=1, prepend=-1) > 0
    assert (whole.nats[first] == 0).all() and (whole.nats[~first] > 0).all()
    parts = walk(reference.teacher, chosen, reference.trajectories, path="own", batch_size=3)
    assert np.allclose(parts.nats, whole.nats, rtol=1e-3, atol=1e-6)
    assert np.array_equal(parts.teacher_passes, whole.teacher_passes)


def test_a_larger_budget_gives_longer_rounds_and_more_kl(reference, shipped):
    tight, loose = (
        reference.walk(strategy("adaptive", shipped, budget=b), "recorded", 1.0)
        for b in (1e-6, 1e6)
    )
    assert (tight.teacher_passes > loose.teacher_passes).all()
    assert (loose.teacher_passes == 2).all()  # 8 reveals, the sampler's k_max, and 4
    assert tight.nats_per_token().value < loose.nats_per_token().value
    assert len(loose.guesses()) == 4 * 10  # every token but the first of each round


def test_reveals_behind_the_end_are_not_counted():
    """Left to right, a row that stopped at its end and one that went on give the same nats per token."""
    teacher = skewed_teacher(length=6)
    teacher.end_ids, teacher.eos_id = (2,), 2
    settings = dict(method="sequential", num_samples=60, max_new_tokens=6, order="left_to_right")
    early, whole = (
        Trajectories.from_generation(generate(teacher, stop_at_end=stop, **settings), 0, teacher)
        for stop in (True, False)
    )
    assert (early.reveals < 6).any() and (whole.reveals == 6).all()
    chosen = strategy("marginal", k=3, length=6, order="left_to_right")
    a, b = (walk(teacher, chosen, rows) for rows in (early, whole))
    assert a.tokens() == b.tokens() == early.reveals.sum().item()
    assert (a.nats * a.counted).sum() == pytest.approx((b.nats * b.counted).sum(), rel=1e-5)
    assert b.nats[~b.counted].sum() > 0  # there was something not to count
    sampled = walk(teacher, chosen, early, path="sampled")
    assert sampled.tokens() < 60 * 6 and not sampled.counted[sampled.position < 0].any()


def test_calibration_bins_hold_every_guess_once():
    guesses = np.stack([np.arange(20.0), np.arange(20.0) * 2], axis=1)
    bins = calibration(guesses[torch.randperm(20).numpy()], bins=4)
    assert [n for _, _, n in bins] == [5] * 4
    assert all(true == pytest.approx(2 * guess) for guess, true, _ in bins)
    assert calibration(np.zeros((0, 2))) == []


def test_a_verified_method_and_a_foreign_corpus_are_refused(tiny, reference):
    with pytest.raises(UserError, match="samples from the teacher's own joint"):
        reference.walk(strategy("lossless"), "recorded", 1.0)
    with pytest.raises(UserError, match="sampled from another teacher"):
        Reference(skewed_teacher(), reference.trajectories)

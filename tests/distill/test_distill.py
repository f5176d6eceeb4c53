"""Distillation: the loss is what the paper says, and following it helps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from jointsampler import JointSampler, Trajectories, block_kl, generate
from jointsampler.corpus.trajectories import Paths
from jointsampler.distill import Batch, DistillSettings, TeacherStates, distill_step, draw_batch
from jointsampler.distill.positions import (
    depth_weights,
    draw_depth,
    draw_jumps,
    draw_states,
    loss_positions,
    rows_of,
    state_keys,
)
from jointsampler.divergence import forward_kl
from jointsampler.sampler.estimator import Foresight, KLEstimator, estimate_loss
from tests.support.analytic import OracleSampler, shuffle_teacher, skewed_teacher


def step(states, sampler, index, starts, settings, seed=0, number=0):
    """A distillation step with the advances that a training would draw for it."""
    reveals, hybrid = states.trajectories.reveals, sampler.config.depth > 0
    advances = draw_batch(reveals, hybrid, settings, len(index), seed, number).advances
    batch = Batch.of(reveals, index, starts, advances)
    return distill_step(states, sampler, batch, settings, seed)


@pytest.fixture(scope="module")
def rows(tiny):
    out = generate(tiny, method="sequential", num_samples=6, max_new_tokens=12, seed=9)
    return Trajectories.from_generation(out, 9, tiny)


def test_forward_kl_is_the_textbook_value_and_forbidden_ids_add_nothing():
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    expected = (p * (p / q).log()).sum()
    infinity = torch.tensor([-torch.inf], dtype=torch.float64)
    value = forward_kl(torch.cat([p.log(), infinity]), torch.cat([q.log() + 3, infinity]))
    assert value.item() == pytest.approx(expected.item())


def test_forward_kl_has_finite_gradients_beside_forbidden_ids():
    logits = torch.tensor([0.3, -0.2, -torch.inf], requires_grad=True)
    target = torch.tensor([0.5, 0.5, 0.0]).log()
    forward_kl(target, logits).backward()
    assert torch.isfinite(logits.grad).all()


def test_the_loss_is_zero_for_the_teacher_itself():
    teacher = shuffle_teacher(5)
    out = generate(teacher, method="sequential", num_samples=8, max_new_tokens=5)
    rows = Trajectories.from_generation(out, 0, teacher)
    index, starts = draw_states(rows.reveals, 8, seed=0, step=0)
    states = TeacherStates(teacher, rows)
    _, metrics = step(states, OracleSampler(teacher), index, starts, DistillSettings(k_max=4))
    assert metrics["loss"].item() == pytest.approx(0, abs=1e-5)


def test_the_loss_equals_a_direct_computation(tiny, trained_like, rows):
    """Depth by depth, position by position, in float64, without the batched code."""
    settings = DistillSettings(k_max=3, near=12, far=12, near_share=0.5)
    starts = torch.tensor([0, 2, 4, 6, 8, 10])
    _, metrics = step(TeacherStates(tiny, rows), trained_like, torch.arange(6), starts, settings, 1)
    paths = Paths.of(rows, tiny)
    per_depth = {1: [], 2: []}
    with torch.no_grad():
        for row, t in enumerate(starts.tolist()):
            one = Paths.of(rows.select([row]), tiny)
            hidden = tiny.hidden(one.state(torch.tensor([t])))
            for d in (1, 2):
                if t + d > 11:
                    continue
                state = one.state(torch.tensor([t + d]))
                hidden = trained_like(tiny.embed(state), hidden)
                p = tiny.logits(tiny.hidden(state)).double().softmax(-1)
                q = tiny.logits(hidden).double().softmax(-1)
                kl = torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1)[0, 1:]
                still = paths.rank[row] >= t + d  # with near = 12 every masked position is near
                per_depth[d].append(kl[still].mean())
    weights = depth_weights(settings, 2, torch.device("cpu")).double()
    expected = sum(
        w * torch.stack(per_depth[d]).mean() for d, w in zip((1, 2), weights, strict=True)
    )
    assert metrics["loss"].item() == pytest.approx(expected.item(), rel=1e-3)
    assert metrics["kl_d1"].item() == pytest.approx(
        torch.stack(per_depth[1]).mean().item(), rel=1e-3
    )


def test_depth_weights_are_the_papers():
    weights = depth_weights(DistillSettings(depth_decay=0.5), 3, torch.device("cpu"))
    expected = torch.softmax(torch.tensor([1.0, 0.5, 0.25]), 0)
    assert torch.allclose(weights, expected)


def test_the_loss_looks_at_the_next_reveals_and_random_others_with_weights_that_sum_to_one(
    tiny, rows
):
    paths = Paths.of(rows, tiny)
    t = torch.tensor([0, 3, 6, 9, 10, 11])
    settings = DistillSettings(near=2, far=3, near_share=0.6)
    keys = state_keys(paths, rows.row_ids, t)
    where = loss_positions(paths, t, settings, 0, keys)
    ahead = paths.rank.gather(1, where.positions) - t[:, None]
    assert (ahead[:, 0] == 0).all()  # the next reveal leads
    assert torch.allclose(where.weight.sum(1), torch.ones(6))
    assert (where.weight[ahead < 0] == 0).all()
    assert where.weight[0].tolist() == pytest.approx([0.3, 0.3, 0.4 / 3, 0.4 / 3, 0.4 / 3])
    assert where.weight[5].tolist() == pytest.approx([1, 0, 0, 0, 0])  # one masked position left
    again = loss_positions(paths, t, settings, 1, keys)
    assert not torch.equal(again.positions, where.positions)


def test_draws_of_a_step_are_pure_and_cover_rows_and_starts():
    reveals = torch.full((10,), 8)
    rows, starts = draw_states(reveals, 4000, seed=3, step=5)
    again = draw_states(reveals, 4000, seed=3, step=5)
    assert torch.equal(rows, again[0]) and torch.equal(starts, again[1])
    assert sorted(rows.unique().tolist()) == list(range(10))
    assert sorted(starts.unique().tolist()) == list(range(7))
    for other in (dict(seed=3, step=6), dict(seed=4, step=5)):
        assert not torch.equal(starts, draw_states(reveals, 4000, **other)[1])
        few = draw_states(reveals, 5, **other)[0]
        assert not torch.equal(few, draw_states(reveals, 5, seed=3, step=5)[0])


def test_each_state_takes_its_row_from_its_own_part_of_the_corpus_and_no_row_is_preferred():
    reveals, steps = torch.full((10,), 8), 3000
    drawn = torch.stack([draw_states(reveals, 4, 1, step)[0] for step in range(steps)])
    for state in range(4):
        own = rows_of(range(state, state + 1), 4, 10)
        assert sorted(drawn[:, state].unique().tolist()) == list(own)
    assert [rows_of(range(i, i + 1), 4, 10) for i in (0, 1)] == [range(3), range(2, 5)]
    share = drawn.flatten().bincount(minlength=10) / drawn.numel()
    assert torch.allclose(share, torch.tensor(0.1), atol=0.012)  # four standard errors


def test_a_corpus_with_fewer_rows_than_states_still_gives_every_state_one():
    rows, _ = draw_states(torch.full((3,), 8), 64, seed=0, step=0)
    assert rows.bincount().tolist() == pytest.approx([64 / 3] * 3, abs=1)


def test_no_state_behind_a_rows_end_is_drawn():
    """A state has at least one reveal after the first of its round, before the row's end."""
    reveals = torch.tensor([8, 2, 5, 3, 8])
    rows, starts = draw_states(reveals, 4000, seed=1, step=0)
    for row, count in enumerate(reveals.tolist()):
        assert sorted(starts[rows == row].unique().tolist()) == list(range(count - 1))


def test_the_depth_of_a_step_is_pure_and_deeper_is_rarer():
    assert {draw_depth(DistillSettings(k_max=5), 0, step) for step in range(50)} == {4}
    settings = DistillSettings(k_max=5, deeper=0.5)
    drawn = torch.tensor([draw_depth(settings, 3, step) for step in range(2000)])
    assert torch.equal(drawn[7], torch.tensor(draw_depth(settings, 3, 7)))
    share = drawn.bincount(minlength=5)[1:] / 2000
    assert torch.allclose(share, torch.tensor([0.5, 0.25, 0.125, 0.125]), atol=0.05)


def test_a_hybrid_draws_one_jump_per_state_with_the_weights_that_the_paper_gives_the_depths():
    settings, count = DistillSettings(k_max=5), 20_000
    jumps = draw_jumps(settings, count, seed=3, step=2)
    share = jumps.bincount(minlength=5)[1:] / count
    weights = depth_weights(settings, 4, torch.device("cpu"))
    assert torch.allclose(share, weights, atol=0.015)  # four standard errors
    assert torch.equal(jumps, draw_jumps(settings, count, 3, 2))
    for other in ((4, 2), (3, 1)):
        assert not torch.equal(jumps, draw_jumps(settings, count, *other))


def test_the_papers_form_advances_once_per_depth_and_a_hybrid_once_per_state():
    settings, reveals = DistillSettings(k_max=4), torch.full((9,), 8)
    paper = draw_batch(reveals, False, settings, 3, 0, 0)
    assert paper.advances.tolist() == [[1] * 3, [2] * 3, [3] * 3]
    (jumps,) = draw_batch(reveals, True, settings, 50, 0, 0).advances
    assert set(jumps.tolist()) == {1, 2, 3}


@pytest.fixture(scope="module")
def ended():
    """Rows of six positions whose symbol 2 ends them, in entropy order, with all states of each."""
    teacher = skewed_teacher(2, length=6)
    teacher.end_ids, teacher.eos_id = (2,), 2
    settings = dict(num_samples=40, max_new_tokens=6, stop_at_end=True)
    out = generate(teacher, method="sequential", **settings)
    rows = Trajectories.from_generation(out, 0, teacher)
    assert (rows.reveals < 6).sum() > 10
    return teacher, rows


def test_no_loss_lies_at_a_position_that_the_row_never_reveals(ended):
    teacher, rows = ended
    paths = Paths.of(rows, teacher)
    never = (paths.rank >= paths.reveals[:, None]).float()
    settings = DistillSettings(near=2, far=6)
    for t in range(5):
        at = torch.full((40,), t)
        where = loss_positions(paths, at, settings, 0, state_keys(paths, rows.row_ids, at))
        assert (where.weight * never.gather(1, where.positions)).sum() == 0
        goes_on = paths.reveals > t
        assert torch.allclose(where.weight.sum(1), goes_on.float())


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_what_stands_behind_the_end_changes_no_loss(ended, cache_gib):
    teacher, rows = ended
    tokens = rows.tokens.clone()
    behind = torch.ones_like(tokens, dtype=torch.bool).scatter(
        1, rows.order.clamp_min(0), torch.zeros_like(tokens, dtype=torch.bool)
    )
    tokens[behind] = (tokens[behind] + 1) % 3
    assert behind.any()
    other = dataclasses.replace(rows, tokens=tokens)
    sampler = JointSampler.for_teacher(teacher, width=32, seed=0)
    torch.nn.init.normal_(sampler.project.weight, generator=torch.Generator().manual_seed(0))
    index, starts = draw_states(rows.reveals, 32, seed=0, step=0)
    a, b = (
        step(TeacherStates(teacher, part, cache_gib), sampler, index, starts, DistillSettings())[1]
        for part in (rows, other)
    )
    assert a["loss"] > 0 and a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_little_training_captures_dependency_that_was_never_seen():
    """On a shuffle, where the truth is known: held-out captured dependency rises from 0."""
    teacher = shuffle_teacher(4)
    out = generate(teacher, method="sequential", num_samples=400, max_new_tokens=4, batch_size=400)
    every = Trajectories.from_generation(out, 0, teacher)
    train, held_out = every.select(range(300)), every.select(range(300, 400))
    sampler = JointSampler.for_teacher(teacher, width=32, seed=0)
    assert block_kl(teacher, sampler, held_out, k=4).captured.value == pytest.approx(0, abs=1e-4)
    optimizer = torch.optim.AdamW(sampler.parameters(), lr=3e-3)
    settings, states = DistillSettings(k_max=4, near=4, far=0), TeacherStates(teacher, train)
    for number in range(150):
        index, starts = draw_states(train.reveals, 32, seed=0, step=number)
        loss, _ = step(states, sampler, index, starts, settings, number=number)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sampler.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert block_kl(teacher, sampler.eval(), held_out, k=4).captured.low > 0.8


@pytest.mark.parametrize("form", ["paper", "hybrid"])
def test_kept_states_give_the_online_loss_and_need_no_teacher_again(
    tiny, trained_like, hybrid_like, rows, form
):
    sampler = {"paper": trained_like, "hybrid": hybrid_like}[form]
    teacher = sampler.reading(tiny)
    settings, index = DistillSettings(k_max=4), torch.tensor([0, 3, 5])
    starts = torch.tensor([0, 4, 9])
    online, kept = TeacherStates(teacher, rows), TeacherStates(teacher, rows, cache_gib=1.0)
    _, a = step(online, sampler, index, starts, settings, seed=1)
    _, b = step(kept, sampler, index, starts, settings, seed=1)
    assert b["loss"].item() == pytest.approx(a["loss"].item(), rel=2e-2)  # bfloat16
    asked = kept.teacher_rows
    step(kept, sampler, index, starts, settings, seed=1)
    assert (kept.teacher_rows, asked) == (3 * 12, 3 * 12)
    # A budget of one row and a half keeps one row; the others stay online.
    small = TeacherStates(teacher, rows, cache_gib=1.5 * kept.bytes / 3 / 2**30)
    _, c = step(small, sampler, index, starts, settings, seed=1)
    assert len(small.kept) == 1
    assert c["loss"].item() == pytest.approx(a["loss"].item(), rel=2e-2)


@pytest.mark.parametrize("form", ["paper", "hybrid"])
def test_kept_states_respect_left_padding(tiny, trained_like, hybrid_like, form):
    sampler = {"paper": trained_like, "hybrid": hybrid_like}[form]
    prompts = ["x", "def main(argv):\n    return", "import os"]
    out = generate(tiny, method="sequential", prompts=prompts, max_new_tokens=8, seed=1)
    rows = Trajectories.from_generation(out, 1, tiny)
    settings, index, starts = DistillSettings(k_max=3), torch.arange(3), torch.tensor([0, 2, 5])
    losses = []
    for gib in (0.0, 1.0):
        states = TeacherStates(sampler.reading(tiny), rows, gib)
        losses.append(step(states, sampler, index, starts, settings)[1]["loss"].item())
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_the_estimator_learns_the_mean_of_the_true_kl_and_moves_nothing_else(tiny, rows):
    """Same states, KLs of two sizes at random: the estimate must become their mean."""
    sampler = JointSampler.for_teacher(tiny, width=64, seed=0)
    states = TeacherStates(tiny, rows)
    starts = torch.zeros(6, dtype=torch.long)
    loss, metrics = step(states, sampler, torch.arange(6), starts, DistillSettings(k_max=3))
    with_estimator = torch.autograd.grad(loss, sampler.project.weight)[0]
    sampler.estimator.requires_grad_(False)
    loss, _ = step(states, sampler, torch.arange(6), starts, DistillSettings(k_max=3))
    without = torch.autograd.grad(loss, sampler.project.weight)[0]
    assert torch.equal(with_estimator, without) and "estimate_loss" in metrics

    torch.manual_seed(0)
    estimator = KLEstimator(8, 1e-6)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=1e-2)
    cooling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=400)
    draw = torch.Generator().manual_seed(0)
    for _ in range(400):
        true = torch.where(torch.rand(512, generator=draw) < 0.25, 4.0, 0.02)
        same = torch.ones(512, 8)
        ones = torch.ones(512, dtype=torch.long)
        seen = Foresight(same, same, torch.zeros(512, 5), same, distance=ones, depth=ones)
        guess = estimator.log_nats(seen)
        estimate_loss(guess, true).mean().backward()
        optimizer.step()
        cooling.step()
        optimizer.zero_grad()
    assert guess.exp().mean().item() == pytest.approx(0.25 * 4 + 0.75 * 0.02, rel=0.1)

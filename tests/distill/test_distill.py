"""Distillation: the loss is what the paper says, and following it helps."""

from __future__ import annotations

import pytest
import torch

from jointsampler import JointSampler, Trajectories, block_kl, generate
from jointsampler.corpus.trajectories import Paths
from jointsampler.distill import DistillSettings, TeacherStates, distill_step, draw_states
from jointsampler.distill.step import depth_weights
from jointsampler.distill.targets import loss_positions
from jointsampler.divergence import forward_kl
from jointsampler.sampler.estimator import Foresight, KLEstimator, estimate_loss
from tests.support.analytic import OracleSampler, shuffle_teacher


@pytest.fixture(scope="module")
def rows(tiny):
    out = generate(tiny, method="sequential", k=1, num_samples=6, max_new_tokens=12, seed=9)
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
    out = generate(teacher, method="sequential", k=1, num_samples=8, max_new_tokens=5)
    rows = Trajectories.from_generation(out, 0, teacher)
    index, starts = draw_states(8, 5, 8, seed=0, step=0)
    states = TeacherStates(teacher, rows)
    _, metrics = distill_step(
        states, OracleSampler(teacher), index, starts, DistillSettings(k_max=4), 0
    )
    assert metrics["loss"].item() == pytest.approx(0, abs=1e-5)


def test_the_loss_equals_a_direct_computation(tiny, trained_like, rows):
    """Depth by depth, position by position, in float64, without the batched code."""
    settings = DistillSettings(k_max=3, near=12, far=12, near_share=0.5)
    starts = torch.tensor([0, 2, 4, 6, 8, 10])
    _, metrics = distill_step(
        TeacherStates(tiny, rows), trained_like, torch.arange(6), starts, settings, seed=1
    )
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
    where = loss_positions(paths, t, near=2, far=3, near_share=0.6, seed=0, keys=rows.row_ids)
    ahead = paths.rank.gather(1, where.positions) - t[:, None]
    assert (ahead[:, 0] == 0).all()  # the next reveal leads
    assert torch.allclose(where.weight.sum(1), torch.ones(6))
    assert (where.weight[ahead < 0] == 0).all()
    assert where.weight[0].tolist() == pytest.approx([0.3, 0.3, 0.4 / 3, 0.4 / 3, 0.4 / 3])
    assert where.weight[5].tolist() == pytest.approx([1, 0, 0, 0, 0])  # one masked position left
    again = loss_positions(paths, t, near=2, far=3, near_share=0.6, seed=1, keys=rows.row_ids)
    assert not torch.equal(again.positions, where.positions)


def test_draws_of_a_step_are_pure_and_cover_rows_and_starts():
    rows, starts = draw_states(10, 8, 4000, seed=3, step=5)
    again = draw_states(10, 8, 4000, seed=3, step=5)
    assert torch.equal(rows, again[0]) and torch.equal(starts, again[1])
    assert sorted(rows.unique().tolist()) == list(range(10))
    assert sorted(starts.unique().tolist()) == list(range(7))
    assert not torch.equal(rows, draw_states(10, 8, 4000, seed=3, step=6)[0])


def test_workers_draw_among_their_own_rows_and_together_cover_all():
    seen = [draw_states(11, 8, 500, 3, 5, rank, 3)[0].unique().tolist() for rank in range(3)]
    assert seen == [list(range(rank, 11, 3)) for rank in range(3)]
    a, b = (draw_states(12, 8, 50, 3, 5, rank, 2) for rank in range(2))
    assert not torch.equal(a[1], b[1])


def test_a_little_training_captures_dependency_that_was_never_seen():
    """On a shuffle, where the truth is known: held-out captured dependency rises from 0."""
    teacher = shuffle_teacher(4)
    out = generate(
        teacher, method="sequential", k=1, num_samples=400, max_new_tokens=4, batch_size=400
    )
    every = Trajectories.from_generation(out, 0, teacher)
    train, held_out = every.select(range(300)), every.select(range(300, 400))
    sampler = JointSampler.for_teacher(teacher, width=32, seed=0)
    assert block_kl(teacher, sampler, held_out, k=4).captured.value == pytest.approx(0, abs=1e-4)
    optimizer = torch.optim.AdamW(sampler.parameters(), lr=3e-3)
    settings, states = DistillSettings(k_max=4, near=4, far=0), TeacherStates(teacher, train)
    for step in range(150):
        index, starts = draw_states(300, 4, 32, seed=0, step=step)
        loss, _ = distill_step(states, sampler, index, starts, settings, 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sampler.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert block_kl(teacher, sampler.eval(), held_out, k=4).captured.low > 0.8


def test_kept_states_give_the_online_loss_and_need_no_teacher_again(tiny, trained_like, rows):
    settings, index = DistillSettings(k_max=4), torch.tensor([0, 3, 5])
    starts = torch.tensor([0, 4, 9])
    online, kept = TeacherStates(tiny, rows), TeacherStates(tiny, rows, cache_gib=1.0)
    _, a = distill_step(online, trained_like, index, starts, settings, seed=1)
    _, b = distill_step(kept, trained_like, index, starts, settings, seed=1)
    assert b["loss"].item() == pytest.approx(a["loss"].item(), rel=2e-2)  # bfloat16
    asked = kept.teacher_rows
    distill_step(kept, trained_like, index, starts, settings, seed=1)
    assert (kept.teacher_rows, asked) == (3 * 12, 3 * 12)
    # A budget of one row and a half keeps one row; the others stay online.
    small = TeacherStates(tiny, rows, cache_gib=1.5 * kept.bytes / 3 / 2**30)
    _, c = distill_step(small, trained_like, index, starts, settings, seed=1)
    assert len(small.kept) == 1
    assert c["loss"].item() == pytest.approx(a["loss"].item(), rel=2e-2)


def test_kept_states_respect_left_padding(tiny, trained_like):
    prompts = ["x", "def main(argv):\n    return", "import os"]
    out = generate(tiny, method="sequential", k=1, prompts=prompts, max_new_tokens=8, seed=1)
    rows = Trajectories.from_generation(out, 1, tiny)
    settings, index, starts = DistillSettings(k_max=3), torch.arange(3), torch.tensor([0, 2, 5])
    losses = [
        distill_step(TeacherStates(tiny, rows, gib), trained_like, index, starts, settings, 0)[1][
            "loss"
        ].item()
        for gib in (0.0, 1.0)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_the_estimator_learns_the_mean_of_the_true_kl_and_moves_nothing_else(tiny, rows):
    """Same states, KLs of two sizes at random: the estimate must become their mean."""
    sampler = JointSampler.for_teacher(tiny, width=64, seed=0)
    states = TeacherStates(tiny, rows)
    starts = torch.zeros(6, dtype=torch.long)
    loss, metrics = distill_step(
        states, sampler, torch.arange(6), starts, DistillSettings(k_max=3), 0
    )
    with_estimator = torch.autograd.grad(loss, sampler.project.weight)[0]
    sampler.estimator.requires_grad_(False)
    loss, _ = distill_step(states, sampler, torch.arange(6), starts, DistillSettings(k_max=3), 0)
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
        seen = Foresight(same, same, torch.zeros(512, 5), same, torch.ones(512).long(), depth=1)
        guess = estimator.log_nats(seen)
        estimate_loss(guess, true).mean().backward()
        optimizer.step()
        cooling.step()
        optimizer.zero_grad()
    assert guess.exp().mean().item() == pytest.approx(0.25 * 4 + 0.75 * 0.02, rel=0.1)

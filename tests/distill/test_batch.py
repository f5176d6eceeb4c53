"""However a batch is shared, evenly or not, its losses and gradients sum to the whole batch's."""

from __future__ import annotations

import pytest
import torch

from jointsampler import JointSampler, Trajectories, generate
from jointsampler.distill import Batch, DistillSettings, TeacherStates, distill_step, draw_batch
from jointsampler.distill.batch import shares
from jointsampler.distill.positions import rows_of
from tests.support.analytic import skewed_teacher


@pytest.mark.parametrize("among", range(1, 17))
@pytest.mark.parametrize("count", [16, 64, 100])
def test_shares_sum_to_the_batch_and_differ_by_one_state_at_most(count, among):
    made = shares(count, among)
    assert [state for share in made for state in share] == list(range(count))
    sizes = [len(share) for share in made]
    assert len(sizes) == among and max(sizes) - min(sizes) <= 1


def test_five_workers_share_64_states():
    assert [len(share) for share in shares(64, 5)] == [13, 13, 13, 13, 12]


def test_a_share_without_a_state_repeats_one_that_counts_nothing():
    """A worker with 12 states makes as many parts as one with 13, also where a part is one state."""
    batch = draw_batch(torch.full((50,), 9), True, DistillSettings(k_max=2), 12, 0, 0)
    parts = batch.divided(13)
    assert [len(part) for part in parts] == [1] * 13
    assert sum(bool(part.weights.any()) for part in parts) == 12
    assert sum(part.weights.sum() for part in parts) == pytest.approx(1)


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_states_of_a_step_depend_on_seed_and_step_alone(hybrid):
    reveals = torch.randint(2, 9, (50,), generator=torch.Generator().manual_seed(0))
    settings = DistillSettings(k_max=5, deeper=0.5)
    drawn = {
        key: draw_batch(reveals, hybrid, settings, 16, *key)
        for key in [(0, 0), (0, 1), (1, 0), (1, 1)]
    }
    again = draw_batch(reveals, hybrid, settings, 16, 1, 0)
    assert torch.equal(again.index, drawn[1, 0].index)
    assert torch.equal(again.starts, drawn[1, 0].starts)
    assert torch.equal(again.advances, drawn[1, 0].advances)
    assert len({tuple(batch.starts.tolist()) for batch in drawn.values()}) == 4


@pytest.mark.parametrize("world", [1, 3, 5, 16])
@pytest.mark.parametrize("n_rows", [7, 16, 1001])
def test_a_worker_needs_its_own_rows_alone_whatever_the_step(world, n_rows):
    reveals, needed = torch.full((n_rows,), 8), set()
    for states in shares(16, world):
        own = rows_of(states, 16, n_rows)
        for step in range(20):
            batch = draw_batch(reveals, True, DistillSettings(), 16, 3, step).part(states)
            assert set(batch.index.tolist()) <= set(own)
        assert len(own) <= -(-n_rows * len(states) // 16) + 1
        needed |= set(own)
    assert needed == set(range(n_rows))


def test_states_behind_an_end_count_nothing_and_the_others_alike():
    reveals = torch.tensor([8, 3])
    batch = Batch.of(
        reveals, torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1]), torch.tensor([[1] * 3, [2] * 3])
    )
    assert batch.weights.tolist() == [pytest.approx([1 / 3] * 3), [0.5, 0.5, 0]]
    assert batch.part(range(2, 3)).weights.tolist() == [[pytest.approx(1 / 3)], [0]]


@pytest.fixture(scope="module")
def ended():
    """A teacher whose rows end early, so that states of a batch count differently at each depth."""
    teacher = skewed_teacher(2, length=6)
    teacher.end_ids, teacher.eos_id = (2,), 2
    out = generate(teacher, method="sequential", num_samples=40, max_new_tokens=6, stop_at_end=True)
    return teacher, Trajectories.from_generation(out, 0, teacher)


def gradient(states, sampler, batch, settings, scale=1.0):
    """(gradient of the loss times ``scale``, metrics)."""
    loss, metrics = distill_step(states, sampler, batch, settings, seed=5)
    made = torch.autograd.grad(loss * scale, list(sampler.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in made if g is not None]), metrics


def perturbed(sampler: JointSampler) -> JointSampler:
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return sampler


@pytest.mark.parametrize("among", [3, 5, 16])
@pytest.mark.parametrize("depth", [0, 3])
def test_gradients_of_uneven_shares_sum_to_the_whole_batchs(tiny, ended, depth, among):
    torch.manual_seed(0)
    if depth:
        out = generate(tiny, method="sequential", num_samples=12, max_new_tokens=6, seed=4)
        teacher, rows = tiny, Trajectories.from_generation(out, 4, tiny)
    else:
        teacher, rows = ended
    sampler = perturbed(JointSampler.for_teacher(teacher, width=32, depth=depth, seed=1))
    states, settings = TeacherStates(sampler.reading(teacher), rows), DistillSettings(k_max=5)
    batch = draw_batch(rows.reveals, depth > 0, settings, 16, seed=5, step=2)
    assert (batch.weights == 0).any()
    whole, metrics = gradient(states, sampler, batch, settings)
    parts = [gradient(states, sampler, part, settings) for part in batch.divided(among)]
    torch.testing.assert_close(
        sum(part for part, _ in parts), whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max())
    )
    for name, value in metrics.items():
        assert sum(part[name].item() for _, part in parts) == pytest.approx(value.item(), rel=1e-4)
    # Means that forget how many states they are of would give another step.
    naive = sum(
        made / share.weights[0].sum()
        for (made, _), share in zip(parts, batch.divided(among), strict=True)
    )
    assert among == 16 or (naive / among - whole).norm() > 1e-3 * whole.norm()

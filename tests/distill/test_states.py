"""Which states a training starts from, and how the teacher continues them afresh."""

from __future__ import annotations

import pytest
import torch

from jointsampler import Trajectories, generate
from jointsampler.corpus.trajectories import Paths
from jointsampler.decoding.sampling import Sampling, probabilities
from jointsampler.distill import (
    DistillSettings,
    TeacherStates,
    distill_step,
    draw_states,
    start_weights,
)
from jointsampler.sampler import at_columns
from tests.support.analytic import OracleSampler, shuffle_teacher


@pytest.fixture(scope="module")
def rows(tiny):
    prompts = ["x", "def main(argv):\n    return", "import os", "for i in"]
    out = generate(tiny, method="sequential", prompts=prompts, max_new_tokens=10, seed=2)
    return Trajectories.from_generation(out, 2, tiny)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5, 0.9)])
def test_certainty_is_the_chance_that_each_token_had_when_it_was_revealed(tiny, rows, sampling):
    states = TeacherStates(tiny, rows, 1, sampling)
    states.fill(range(4))
    for row in range(4):
        one = rows.select([row])
        paths = Paths.of(one, tiny)
        for t in range(rows.length):
            hidden = tiny.hidden(paths.state(torch.tensor([t])))
            column = paths.start + int(one.order[0, t])
            probs = probabilities(tiny.logits(hidden[0, column]), sampling)
            here = states.certainty(torch.tensor([row]))[0, t].item()
            assert here == pytest.approx(probs[paths.ids[0, column]].item(), rel=1e-4, abs=1e-6)


def test_the_time_of_fresh_tokens_is_the_teachers_and_in_the_whole(tiny, rows):
    states = TeacherStates(tiny, rows)
    states.targets(torch.arange(4), torch.zeros(4).long(), DistillSettings(fresh=1.0), 3, 0)
    assert 0 < states.teacher_seconds < states.seconds


def test_starts_are_drawn_by_how_uncertain_their_first_token_was():
    class Known:
        def certainty(self, index):
            return torch.tensor([[1.0, 0.0, 1.0, 0.5, 0.3]]).expand(len(index), -1)

    weigh, five = start_weights(Known(), 0.1), torch.full((10,), 5)
    _, starts = draw_states(five, 20_000, seed=3, step=5, weigh=weigh)
    weights = torch.tensor([0.1, 1.0, 0.1, 0.55])
    share = starts.bincount(minlength=4) / 20_000
    assert torch.allclose(share, weights / weights.sum(), atol=0.015)  # four standard errors
    # Without, or with weights that are all alike, each start has the same chance.
    assert start_weights(Known(), 1.0) is None
    _, plain = draw_states(five, 500, seed=3, step=5)
    _, alike = draw_states(five, 500, 3, 5, weigh=lambda rows: torch.ones(len(rows), 4))
    assert torch.equal(plain, alike)


def test_no_fresh_state_leaves_the_targets_as_they_were(tiny, rows):
    index, starts = torch.arange(4), torch.tensor([0, 3, 5, 8])
    states = TeacherStates(tiny, rows)
    plain = states.targets(index, starts, DistillSettings(), 2, seed=1)
    later = states.targets(index, starts, DistillSettings(), 2, seed=1, step=9)
    assert torch.equal(plain.paths.ids, later.paths.ids)
    assert torch.equal(plain.depths[1].truth, later.depths[1].truth)


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_a_fresh_state_has_new_tokens_in_the_round_and_the_teachers_states_for_them(
    tiny, rows, cache_gib
):
    index, starts = torch.arange(4), torch.tensor([0, 3, 5, 6])
    states = TeacherStates(tiny, rows, cache_gib)
    settings = DistillSettings(fresh=1.0)
    targets = states.targets(index, starts, settings, 3, seed=1, step=7)
    recorded = Paths.of(rows, tiny)
    changed = (targets.paths.ids != recorded.ids)[:, recorded.start :]
    within = (recorded.rank >= starts[:, None]) & (recorded.rank < starts[:, None] + 3)
    assert bool(changed.any()) and not bool((changed & ~within).any())
    assert torch.equal(targets.paths.order, recorded.order)
    close = {"rtol": 1e-3, "atol": 1e-3} if cache_gib == 0 else {"rtol": 0.05, "atol": 0.3}
    opening = tiny.hidden(recorded.state(starts), recorded.attention_mask)
    real = slice(None) if recorded.attention_mask is None else recorded.attention_mask
    assert torch.allclose(targets.opening[real].float(), opening[real], **close)
    for d, made in enumerate(targets.depths, start=1):
        truth = tiny.hidden(targets.paths.state(starts + d), targets.paths.attention_mask)
        truth = at_columns(truth, targets.paths.start + made.where.positions).flatten(0, 1)
        assert torch.allclose(made.truth, truth, rtol=1e-3, atol=1e-3)


def test_fresh_tokens_follow_the_teachers_conditional_under_the_corpuss_settings(tiny, rows):
    """Five hundred continuations of one state; chi-square against the probabilities that they were drawn with."""
    paths = Paths.of(rows.select([2]), tiny)
    start = torch.tensor([0])
    column = paths.start + int(paths.order[0, 0])
    for sampling in (Sampling(), Sampling(0.7, 0.9)):
        states = TeacherStates(tiny, rows, cache_gib=1, sampling=sampling)
        exact = probabilities(tiny.logits(tiny.hidden(paths.state(start))[0, column]), sampling)
        n = 500
        opening = tiny.hidden(paths.state(start)).expand(n, -1, -1)
        many, at = paths.repeat(n), torch.tensor([[0] * n, [1] * n])
        ids, _ = states.continued(many, opening, at, torch.arange(n), seed=5, step=0)
        counts = ids[:, column].bincount(minlength=len(exact)).double()
        assert not bool((counts > 0)[exact == 0].any())
        big = exact * n >= 5
        pooled = torch.stack([counts[~big].sum(), n * exact[~big].sum().double()])
        seen = torch.cat([counts[big], pooled[:1]])
        expected = torch.cat([n * exact[big].double(), pooled[1:]]).clamp_min(1e-9)
        freedom = len(seen) - 1
        chi = ((seen - expected) ** 2 / expected).sum().item()
        assert chi < freedom + 4 * (2 * freedom) ** 0.5 + 4  # four standard deviations


def test_fresh_tokens_depend_on_step_and_row_and_never_on_the_batch(tiny, rows):
    settings, states = DistillSettings(fresh=0.5), TeacherStates(tiny, rows)
    index, starts = torch.arange(4), torch.tensor([0, 3, 5, 6])

    def tokens(index, starts, step):
        return states.targets(index, starts, settings, 3, 1, step=step).paths.ids[:, -10:]

    together = [tokens(index, starts, step) for step in range(8)]
    for step in range(8):
        alone = torch.cat([tokens(index[i : i + 1], starts[i : i + 1], step) for i in range(4)])
        assert torch.equal(together[step], alone)
    assert any(not torch.equal(together[0], other) for other in together[1:])
    recorded = [bool((ids == rows.tokens).all(1)[0]) for ids in together]
    assert any(recorded) and not all(recorded)  # about half of the steps take the recorded path


def test_a_fresh_step_has_no_loss_for_the_teacher_itself():
    teacher = shuffle_teacher(5)
    out = generate(teacher, method="sequential", num_samples=8, max_new_tokens=5)
    rows = Trajectories.from_generation(out, 0, teacher)
    index, starts = draw_states(rows.reveals, 8, seed=0, step=0)
    for fresh in (0.5, 1.0):
        settings = DistillSettings(k_max=4, fresh=fresh)
        _, metrics = distill_step(
            TeacherStates(teacher, rows), OracleSampler(teacher), index, starts, settings, 0, step=3
        )
        assert metrics["loss"].item() == pytest.approx(0, abs=1e-5)

"""Dependency-aware selection: what the head learns and what a round takes."""

from __future__ import annotations

import pytest
import torch

from jointsampler import generate
from jointsampler.decoding.generate import decode
from jointsampler.decoding.orders import Entropy
from jointsampler.decoding.prompts import encode_prompts
from jointsampler.decoding.sampling import Sampling
from jointsampler.decoding.stops import Adaptive
from jointsampler.decoding.strategy import Strategy
from jointsampler.rivals.dependency import influences, train_head
from jointsampler.rivals.independent import Independent, IndependentRound
from jointsampler.rivals.states import masked_states
from jointsampler.rivals.within import Within
from jointsampler.updates import Opening, Reveal
from tests.rivals.conftest import LENGTH, PROMPTS


@pytest.fixture(scope="module")
def states(tiny):
    return masked_states(tiny, 36, LENGTH, seed=5)


def run(teacher, head, bound):
    order, rule = Within(Entropy(), bound), Adaptive(LENGTH, bound)
    strategy = Strategy(Independent(head), rule, order, Sampling(), 3)
    encoded = encode_prompts(teacher, PROMPTS, LENGTH)
    return decode(teacher, strategy, encoded, torch.arange(3), LENGTH, method="test")


def test_a_bound_of_zero_is_one_token_a_pass(tiny, untrained):
    same = generate(tiny, None, PROMPTS, "sequential", max_new_tokens=LENGTH, seed=3)
    assert torch.equal(run(tiny, untrained.head, 0.0).sequences, same.sequences)


def test_without_a_bound_all_tokens_come_from_one_pass(tiny, untrained):
    same = generate(tiny, None, PROMPTS, "marginal", LENGTH, max_new_tokens=LENGTH, seed=3)
    assert torch.equal(run(tiny, untrained.head, 1e5).sequences, same.sequences)


def test_a_larger_bound_makes_longer_rounds(tiny, untrained):
    passes = [run(tiny, untrained.head, bound).teacher_passes.sum() for bound in (0.02, 0.2, 2)]
    assert passes[0] > passes[1] > passes[2]


class _Table:
    """A head that looks influences up: 0.5 between neighbours, 0.1 else."""

    def __call__(self, states, revealed, offset):
        return torch.where(offset.abs() == 1, 0.5, 0.1)


class _Sized:
    hidden_size = 2


def test_the_sum_of_a_round_is_over_all_ordered_pairs_that_it_takes():
    state = IndependentRound(Independent(_Table()), _Sized(), Opening(torch.zeros(1, 6, 2), None))
    masked, scores = torch.ones(1, 6, dtype=torch.bool), torch.zeros(1, 6)
    ids = torch.zeros(1, 6, dtype=torch.long)
    for position in (1, 4):
        masked = masked & (torch.arange(6) != position)
        state.advance(Reveal(ids, torch.tensor([position]), masked, scores))
    # 4 after 1 costs .1; then 2 depends on 1 by .5 and on 4 by .1, and 3 the other way round.
    sums = state.states[0, :, -1]
    assert sums[[2, 3]].tolist() == pytest.approx([0.7, 0.7])
    assert sums[0].item() == pytest.approx(0.7) and sums[5].item() == pytest.approx(0.7)


def test_influences_are_total_variations_of_a_real_reveal(tiny, states):
    position, found = influences(tiny, states, seed=5)
    assert states.masked[torch.arange(len(states)), position].all()
    assert found.min() >= 0 and found.max() <= 1 + 1e-5 and found[states.masked].max() > 0.05


def test_training_lowers_the_loss(tiny, states):
    _, losses = train_head(tiny, states, steps=60, batch=36)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_states_are_masked_answers_to_prompts_and_seeded(tiny, states):
    again = masked_states(tiny, 36, LENGTH, seed=5)
    assert torch.equal(states.ids, again.ids) and torch.equal(states.hidden, again.hidden)
    response = states.ids[:, -LENGTH:]
    assert torch.equal(response == tiny.mask_id, states.masked) and states.masked.any(1).all()
    assert torch.equal(response[~states.masked], states.tokens[~states.masked])

"""The circuit sums exactly, and rounds sample its product with the marginals."""

from __future__ import annotations

import itertools

import pytest
import torch

from jointsampler import generate
from jointsampler.decoding.generate import decode
from jointsampler.decoding.orders import Entropy
from jointsampler.decoding.prompts import encode_prompts
from jointsampler.decoding.sampling import Sampling
from jointsampler.decoding.stops import FixedK
from jointsampler.decoding.strategy import Strategy
from jointsampler.rivals.circuit import Circuit, train_circuit
from jointsampler.rivals.copula import Copula, CopulaRound, Corrected
from jointsampler.rivals.states import masked_states
from jointsampler.updates import Opening, Reveal
from tests.rivals.conftest import LENGTH, PROMPTS

V, L, Z = 3, 4, 2


@pytest.fixture
def small() -> Circuit:
    circuit = Circuit(V, Z, seed=1).requires_grad_(False)
    for weights in (circuit.moves, circuit.emits):
        weights *= 6
    return circuit


def joint_of(circuit: Circuit, probs: torch.Tensor) -> torch.Tensor:
    """[V, V, V, V]: the normalised product of circuit and probs [L, V], by enumeration."""
    start, moves, emits = circuit.start.softmax(-1), circuit.moves.softmax(-1), circuit.emissions()
    table = torch.zeros([V] * L)
    for word in itertools.product(range(V), repeat=L):
        for path in itertools.product(range(Z), repeat=L):
            weight = start[path[0]]
            for a, b in itertools.pairwise(path):
                weight = weight * moves[a, b]
            for i, (z, x) in enumerate(zip(path, word, strict=True)):
                weight = weight * emits[z, x] * probs[i, x]
            table[word] += weight
    return table


def marginals() -> torch.Tensor:
    return torch.rand(L, V, generator=torch.Generator().manual_seed(2)).softmax(-1)


def test_the_sum_over_paths_is_the_sum_over_all_words(small):
    probs, none = marginals(), torch.zeros(1, L, dtype=torch.long)
    everything = torch.ones(1, L, dtype=torch.bool)
    evidence = small.evidence(probs[None], none, everything, small.emissions())
    assert small.log_sum(evidence).exp().item() == pytest.approx(
        joint_of(small, probs).sum().item()
    )


def test_messages_give_every_conditional_of_the_product(small):
    """With position 2 known to hold token 1."""
    probs = marginals()
    masked = torch.tensor([[True, True, False, True]])
    tokens = torch.tensor([[0, 0, 1, 0]])
    emissions = small.emissions()
    messages = small.messages(small.evidence(probs[None], tokens, masked, emissions))[0]
    table = joint_of(small, probs)[:, :, 1, :]
    for place, axis in ((0, 0), (1, 1), (3, 2)):
        found = probs[place] * (messages[place] @ emissions)
        others = [a for a in range(3) if a != axis]
        expected = table.sum(others) / table.sum()
        assert torch.allclose(found / found.sum(), expected, atol=1e-5)


class _Marginals:
    """A teacher whose states are log-probabilities."""

    mask_id, hidden_size = 0, V

    def logits(self, states):
        return states[..., :V]


def test_a_round_multiplies_the_marginal_by_what_the_reveals_tell_the_circuit(small):
    probs = marginals()
    ids = torch.zeros(1, 1 + L, dtype=torch.long)
    ids[0, 0] = 2  # a prompt of one token
    states = torch.cat([torch.zeros(1, V), probs.log()])[None]
    teacher = Corrected(_Marginals(), small)
    state = CopulaRound(small, teacher, Opening(states, None, ids))
    revealed = ids.clone()
    revealed[0, 3] = 1  # response position 2
    state.advance(Reveal(revealed, torch.tensor([3]), start=1))
    found = teacher.logits(state.states)[0, 1].softmax(-1)
    table = joint_of(small, probs)
    after, before = table[:, :, 1, :].sum((1, 2)), table.sum((1, 2, 3))
    expected = probs[0] * (after / after.sum()) / (before / before.sum())
    assert torch.allclose(found, expected / expected.sum(), atol=1e-5)


def test_a_circuit_without_dependence_changes_nothing(tiny):
    circuit = Circuit(tiny.vocab_size, 4, seed=1).requires_grad_(False)
    circuit.moves.zero_()  # the next latent state is independent of the last
    strategy = Strategy(Copula(circuit), FixedK(4), Entropy(), Sampling(), 3)
    encoded = encode_prompts(tiny, PROMPTS, LENGTH)
    out = decode(tiny, strategy, encoded, torch.arange(3), LENGTH, method="test")
    same = generate(tiny, None, PROMPTS, "marginal", 4, max_new_tokens=LENGTH, seed=3)
    assert torch.equal(out.responses, same.responses)


def test_training_finds_dependence_that_the_marginals_lack(tiny):
    states = masked_states(tiny, 36, LENGTH, seed=5, tasks=("shuffle", "latin_square"))
    _, losses = train_circuit(tiny, states, latent=8, steps=30, batch=18)
    assert sum(losses[-5:]) / 5 < min(0.0, sum(losses[:5]) / 5)

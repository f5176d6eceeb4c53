"""Small models for the trained rivals, and short prompts."""

from __future__ import annotations

import pytest

from jointsampler.rivals import Trained, contenders
from jointsampler.rivals.circuit import Circuit
from jointsampler.rivals.dependency import DependencyHead

LENGTH = 16
PROMPTS = ["sort: tom ann eve ->", "copy: gus ->", "shuffle: ned pam ann ->"]


@pytest.fixture(scope="session")
def untrained(tiny):
    """Models with random weights: their rows run, and mean nothing."""
    circuit = Circuit(tiny.vocab_size, latent=8, seed=4).requires_grad_(False)
    circuit.moves *= 8
    circuit.emits *= 8
    head = DependencyHead(tiny.hidden_size, seed=4).requires_grad_(False)
    return Trained(circuit, head, [], [])


@pytest.fixture(scope="session")
def every(untrained, hybrid_like):
    """All rows of the table, for responses of ``LENGTH``."""
    from jointsampler.updates import Refresh, joint_update

    updates = {"refresh": Refresh(), "joint": joint_update(hybrid_like)}
    return contenders(LENGTH, 3, updates, untrained)

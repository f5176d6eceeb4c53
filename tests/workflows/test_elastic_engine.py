"""A training whose number of workers changes takes the steps that one worker takes (DeepSpeed, no Ray)."""

from __future__ import annotations

import pytest
import torch

from jointsampler import Trajectories, generate
from tests.support import workers

pytestmark = pytest.mark.slow

SETTINGS = dict(steps=100, warmup_steps=2, batch_size=16, k_max=4)


@pytest.fixture(scope="module")
def corpus(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "rows.pt"
    count = workers.ROWS + workers.HELD_OUT
    out = generate(tiny, method="sequential", num_samples=count, max_new_tokens=8, seed=2)
    torch.save(Trajectories.from_generation(out, 2, tiny), path)
    return path


def in_turn(corpus, folder, worlds, **settings):
    """(losses, weights) of nine steps, three by each number of workers of ``worlds``."""
    losses, begin = [], None
    for turn, world in enumerate(worlds):
        at = folder / f"{turn}"
        made, weights = workers.train(at, corpus, world, 3 * turn + 3, begin, **settings)
        losses, begin = losses + made, at
    return losses, weights


@pytest.mark.parametrize(
    ("optimizer", "stage", "accumulate"),
    [("muon", 1, 1), ("muon", 2, 3), ("adamw", 1, 3), ("adamw", 2, 1), ("muon", 0, 1)],
)
def test_five_then_three_then_four_workers_take_the_steps_of_one(
    corpus, tmp_path, optimizer, stage, accumulate
):
    """16 states on 5 workers are 4, 3, 3, 3, 3: parts of one and of two states with three parts each."""
    settings = SETTINGS | dict(optimizer=optimizer, zero_stage=stage, accumulate=accumulate)
    one, weights = workers.train(tmp_path / "one", corpus, 1, 9, **settings)
    many, others = in_turn(corpus, tmp_path / "many", (5, 3, 4), **settings)
    assert many == pytest.approx(one, rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-4)
